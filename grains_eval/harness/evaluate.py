"""Evaluate from Python: lm-eval's own `simple_evaluate` with our model, our tasks and a results folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from lm_eval.evaluator import simple_evaluate
from lm_eval.loggers import EvaluationTracker
from lm_eval.models.huggingface import HFLM

from grains_eval.artifacts.save import check_writable
from grains_eval.errors import GrainsError
from grains_eval.examples import task_manager
from grains_eval.harness.applied_artifacts import AppliedMixin
from grains_eval.harness.model import GrainsHF
from grains_eval.models.loading import HarnessModel, LoadedModel, parse_model_args

MODEL_FOLDER = 200  # characters of a folder's name, of 255 that file systems take


def evaluate(
    model: LoadedModel | HarnessModel | str | Mapping[str, Any],
    tasks: str | Sequence[str],
    *,
    output_path: str | Path | None = None,
    include_path: Sequence[str] = (),
    metadata: Mapping[str, Any] | None = None,
    device: str | None = None,
    batch_size: int | str | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Run lm-eval on tasks.

    Args:
        model: What `load_model` gave, a `grains_hf` or `grains_vllm` model, or `--model_args` of `grains_hf` as string
            or mapping (`pretrained`, `vectors`, `strength`, …).
        tasks: Task or group names: ours, the harness's, or those in `include_path`.
        output_path: Folder for `results_*.json` and `samples_*.jsonl`, as `lm_eval --log_samples` writes them.
        include_path: Folders with the user's own tasks.
        metadata: Given to every task, as lm-eval's `--metadata`.
        device: As lm-eval's `--device`.
        batch_size: As lm-eval's `--batch_size`.
        **settings: Anything else that `lm_eval.simple_evaluate` takes, e.g. `limit`, `num_fewshot`,
            `apply_chat_template`.

    Returns:
        lm-eval's results, with `config.steering` saying what steered the run.

    Raises:
        GrainsError: an output path where nothing can be written, an unknown task, something that is not a model, or
            steering arguments that do not fit.
    """
    if output_path is not None:
        check_writable(Path(output_path))
    arguments: dict[str, Any] = {}
    if isinstance(model, LoadedModel):
        model = model.lm
    if isinstance(model, HFLM | AppliedMixin):
        lm = model
    elif not isinstance(model, str | Mapping):
        raise GrainsError(
            f"a model of type {type(model).__name__} cannot be evaluated; give load_model(...), or grains_hf's model "
            "arguments as a string or mapping"
        )
    else:
        arguments = parse_model_args(model)
        lm = GrainsHF.create_from_arg_obj(arguments, {"device": device, "batch_size": batch_size})
    tasks = [tasks] if isinstance(tasks, str) else tasks
    manager = task_manager(tasks, include_path, metadata)
    missing = [name for name in tasks if not manager.match_tasks([name])]
    if missing:
        raise GrainsError(f"unknown task '{missing[0]}': list them with lm_eval ls tasks, or add include_path")
    found = simple_evaluate(
        model=lm, model_args=arguments or None, tasks=list(tasks), task_manager=manager, log_samples=True, **settings
    )
    results = cast("dict[str, Any] | None", found)
    if results is None:  # another process of a distributed run reports
        return {}
    results |= prompt_facts(lm, settings)
    if not arguments:  # lm-eval calls a model that was handed over by the name of its weights
        results["model_name"] = results["config"]["model"]
    if isinstance(lm, AppliedMixin):
        results["config"] |= {"model": lm.registered_name, "model_args": arguments}
    if output_path is not None:
        write_run(results, output_path)
    return results


def prompt_facts(lm: HFLM | AppliedMixin, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What `lm_eval` notes of how a run prompted, which `simple_evaluate` leaves to its command line.

    Args:
        lm: The model, which has the chat template.
        settings: What `simple_evaluate` was called with.
    """
    template: bool | str = settings.get("apply_chat_template") or False
    return {
        "system_instruction": settings.get("system_instruction"),
        "chat_template": lm.chat_template(template) if template else None,
        "fewshot_as_multiturn": settings.get("fewshot_as_multiturn", True) if template else None,
    }


def write_run(results: dict[str, Any], folder: str | Path) -> None:
    """Write `results_*.json` and `samples_*.jsonl` with lm-eval's own tracker, as `lm_eval --log_samples` does.

    Args:
        results: What `simple_evaluate` returned, with `prompt_facts` where they are known; `config.model_args` or
            `model_name` say which model it was.
        folder: The results lie in a folder of the model's name in it.

    Raises:
        OSError: something could not be written, on a full disk for instance; lm-eval's tracker only warns of it.
    """
    tracker = EvaluationTracker(output_path=str(folder))
    notes = tracker.general_config_tracker
    notes.log_experiment_args(
        model_source=results["config"]["model"],
        model_args=results["config"].get("model_args") or {"pretrained": results.get("model_name") or "model"},
        system_instruction=results.get("system_instruction"),
        chat_template=results.get("chat_template"),
        fewshot_as_multiturn=cast(bool, results.get("fewshot_as_multiturn")),
    )
    # a deep local path makes a name that no file system takes
    notes.model_name_sanitized = str(notes.model_name_sanitized)[-MODEL_FOLDER:]
    samples: dict[str, Any] = results["samples"]
    # one order, whether this run was evaluated alone or beside others
    ordered = sorted(results.items(), key=lambda item: (item[0] != "results", item[0]))
    tracker.save_results_aggregated(results={key: value for key, value in ordered if key != "samples"}, samples=samples)
    for name in results["configs"]:
        tracker.save_results_samples(task_name=name, samples=samples[name])
    _check_written(Path(folder), str(tracker.date_id), results)


def _check_written(folder: Path, date: str, results: Mapping[str, Any]) -> None:
    """Count what was written."""
    expected = sum(len(results["samples"][name]) for name in results["configs"])
    found = sum(file.read_bytes().count(b"\n") for file in folder.rglob(f"samples_*_{date}.jsonl"))
    try:
        whole = [json.loads(file.read_bytes()) for file in folder.rglob(f"results_{date}.json")]
    except ValueError:
        whole = []
    if not whole or found != expected:
        raise OSError(
            f"lm-eval wrote {found} of {expected} samples to '{folder}' and {'a' if whole else 'no'} results file; "
            "its warning above says why; free some disk space if that is full, and run the same command again"
        )
