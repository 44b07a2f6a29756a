"""Runs of a comparison: written one by one as they finish, whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil

import pytest
import torch
from lm_eval.loggers import evaluation_tracker

from grains_eval.artifacts.save import save_vectors
from grains_eval.cli.errors import exit_code
from grains_eval.comparison.logs import read_run
from grains_eval.demo.run import demo_model_args
from grains_eval.harness import sweep as sweep_module
from grains_eval.recipes import load_recipe
from grains_eval.study import runs as runs_module
from grains_eval.study.runs import NOTE, PlannedRun, run_all
from grains_eval.study.session import Session, load_lm
from grains_eval.tasks_path import task_directory
from grains_eval.types import SteeringConfig, SteeringVectors

ARGUMENTS = demo_model_args("text_split")
LIMIT = 6


@pytest.fixture(scope="module")
def lm():
    return load_lm(ARGUMENTS)


@pytest.fixture
def planned(lm, tmp_path):
    """The unsteered model and three vectors."""
    runs = [PlannedRun("baseline")]
    for seed in (1, 2, 3):
        direction = torch.randn(lm.model.config.hidden_size, generator=torch.Generator().manual_seed(seed))
        held = SteeringVectors({1: direction}, {1: 1.0}, recommended=SteeringConfig(layers=(1,), strength=1.0))
        save_vectors(held, tmp_path / "vectors" / str(seed))
        runs.append(PlannedRun(f"vector_{seed}", {"vectors": str(tmp_path / "vectors" / str(seed))}))
    return runs


@pytest.fixture
def evaluate(lm, planned, tmp_path):
    recipe = load_recipe(task_directory() / "demo" / "text_split" / "recipe.yaml", [f"evaluation.limit={LIMIT}"])
    return lambda: run_all(tmp_path / "runs", recipe, planned, Session(ARGUMENTS, lm=lm))


def evaluations(monkeypatch, stop=lambda index: None):
    """Counts lm-eval's evaluations; `stop` may raise before one."""
    begun = []

    def counted(inner):
        def call(*arguments, **keywords):
            stop(len(begun))
            begun.append(len(begun))
            return inner(*arguments, **keywords)

        return call

    for name in ("evaluate", "simple_evaluate"):  # the first setting's and every other's
        monkeypatch.setattr(sweep_module, name, counted(getattr(sweep_module, name)))
    return begun


def complete(folder):
    """Whether a run's folder holds the results and every sample."""
    run = read_run(folder)
    return all(len(run.samples(task)["none"]) == LIMIT for task in run.tasks)


def test_an_interrupt_keeps_the_runs_before_it(evaluate, tmp_path, monkeypatch):
    def interrupt(index):
        if index == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        evaluations(patch, interrupt)
        with pytest.raises(KeyboardInterrupt):
            evaluate()
    kept = sorted(folder.name for folder in (tmp_path / "runs").iterdir())
    assert kept == ["baseline", "vector_1"]
    begun = evaluations(monkeypatch)
    there, failures = evaluate()
    assert list(there) == ["baseline", "vector_1", "vector_2", "vector_3"] and not failures
    assert len(begun) == 2, "what was written is not evaluated again"
    assert all(complete(folder) for folder in there.values())


def test_a_run_that_fails_costs_no_other_run(lm, evaluate, tmp_path, monkeypatch):
    def fail(index):
        if lm.applied and lm.applied[0].source.endswith("/2"):
            raise RuntimeError("no\nmemory")

    begun = evaluations(monkeypatch, fail)
    there, failures = evaluate()
    assert failures == {"vector_2": "no memory"}
    assert list(there) == ["baseline", "vector_1", "vector_3"]
    assert len(begun) == 3, "each run that succeeds is evaluated once"
    assert not (tmp_path / "runs" / "vector_2").exists()


class FullAfter:
    """A file on a disk that takes so many more characters."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, text):
        if len(text) > self.room:
            self.file.write(text[: self.room])
            self.file.flush()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.file.name)
        self.room -= len(text)
        return self.file.write(text)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


def full_samples(patch):
    def opened(*arguments, **keywords):
        return FullAfter(open(*arguments, **keywords), 3000)

    patch.setattr(evaluation_tracker, "open", opened, raising=False)  # lm-eval's own writer


def full_results(patch):
    whole = runs_module.Path.write_text

    def write(self, text, *arguments, **keywords):
        if not self.name.startswith("results_"):
            return whole(self, text, *arguments, **keywords)
        whole(self, text[:100], *arguments, **keywords)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    patch.setattr(runs_module.Path, "write_text", write)


def full_note(patch):
    whole = runs_module.Path.write_text

    def write(self, text, *arguments, **keywords):
        if NOTE not in self.name:
            return whole(self, text, *arguments, **keywords)
        whole(self, text[:10], *arguments, **keywords)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    patch.setattr(runs_module.Path, "write_text", write)


@pytest.mark.parametrize("remove", [True, False], ids=["", "killed"])
@pytest.mark.parametrize("full", [full_samples, full_results, full_note])
def test_a_full_disk_is_one_line_and_leaves_no_run_that_looks_finished(
    full, remove, evaluate, tmp_path, monkeypatch, capsys
):
    with monkeypatch.context() as patch:
        full(patch)
        if not remove:  # what a process that dies on the spot leaves behind
            patch.setattr(shutil, "rmtree", lambda *a, **k: None)
        assert exit_code(evaluate) == 2
    error = capsys.readouterr().err
    (line,) = [line for line in error.splitlines() if line.startswith("grains-eval: ")]
    assert "disk" in line and "run the same command again" in line
    assert not list((tmp_path / "runs").glob(f"*/{NOTE}"))
    assert remove == (not list((tmp_path / "runs").iterdir()))
    there, failures = evaluate()
    assert len(there) == 4 and not failures
    assert all(complete(folder) for folder in there.values())


def test_a_run_whose_results_cannot_be_written_is_a_failure_that_says_so(evaluate, tmp_path, monkeypatch):
    written = runs_module.write_run

    def write(results, folder):
        if folder.name == "vector_2":
            raise ValueError("no JSON for this")
        written(results, folder)

    monkeypatch.setattr(runs_module, "write_run", write)
    there, failures = evaluate()
    assert list(there) == ["baseline", "vector_1", "vector_3"]
    assert failures == {"vector_2": "no JSON for this"}
    assert not (tmp_path / "runs" / "vector_2").exists()
