"""Evaluate many steering settings: one pass scores them all, then lm-eval's own `evaluate` runs per setting.

Metrics, filters, aggregation and samples are thus the harness's own, and a setting costs little more than the
layers it changes. Requests that cannot be shared (generation, rolling) run under hooks, one setting after
another.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from lm_eval.api.instance import Instance
from lm_eval.evaluator import evaluate, simple_evaluate
from lm_eval.tasks import TaskManager

from grains_eval.errors import GrainsError
from grains_eval.harness.applied_artifacts import AppliedMixin
from grains_eval.harness.arguments import AppliedArtifact
from grains_eval.harness.evaluate import prompt_facts
from grains_eval.harness.prefix_sharing.configurations import Configuration
from grains_eval.harness.prefix_sharing.loglikelihood import Memo
from grains_eval.harness.prefix_sharing.targets import Score

Setting = Sequence[AppliedArtifact]
"""Artifacts with the strength, layers, ... they are applied with; empty for the unsteered model."""

_SEEDS = {
    name: inspect.signature(simple_evaluate).parameters[name].default
    for name in ("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed")
}
_OPTIONS = set(inspect.signature(evaluate).parameters) - {"lm", "task_dict"}
_DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(simple_evaluate).parameters.items()
    if name in _OPTIONS - {"verbosity"}
}


def evaluate_settings(
    lm: AppliedMixin,
    settings: Sequence[Setting],
    tasks: Sequence[str],
    *,
    task_manager: TaskManager | None = None,
    on_result: Callable[[int, dict[str, Any]], None] | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """Run lm-eval once per setting, with the forward passes of all settings shared.

    Args:
        lm: A `grains_hf` or `grains_vllm` model; its own setting is put aside and comes back afterwards.
        settings: What to evaluate, one after another.
        tasks: Task or group names.
        task_manager: Finds the tasks; lm-eval's default if None.
        on_result: Called with a setting's index and results as soon as they are known, before the next setting runs.
        **options: Anything else that `lm_eval.simple_evaluate` takes, e.g. `limit`, `num_fewshot`; never
        `use_cache`.

    Returns:
        Per setting, the results that `simple_evaluate` would return for it, and `prompt_facts`; empty on processes
        that do not report.

    Raises:
        GrainsError: `use_cache`, a setting that does not fit the model, or an adapter.
    """
    if options.get("use_cache") is not None:
        raise GrainsError("a sweep does not use lm-eval's cache, which knows no settings; drop use_cache")
    for setting in settings:
        for item in setting:
            if item.artifact.adapter is not None:
                raise GrainsError(
                    f"'{item.source}' is a LoRA adapter, which a sweep cannot switch; evaluate it on its own"
                )
            if item.artifact.contrast is not None:
                raise GrainsError(
                    f"'{item.source}' is a contrast of two prompts, which a sweep cannot switch; evaluate it on its own"
                )
            if item.is_inserted:
                raise GrainsError(
                    f"'{item.source}' stands in the prompt, which a sweep cannot switch; evaluate it on its own, or "
                    "use form=kv"
                )
            lm.check_artifact(item)
    manager = TaskManager() if task_manager is None else task_manager
    loaded = _Loaded(manager, list(tasks))
    own = lm.applied
    results: list[dict[str, Any]] = []
    try:
        lm.memo = Memo([_configuration(setting) for setting in settings])
        for index, setting in enumerate(settings):
            lm.applied, lm.memo.active = tuple(setting), index
            if not results:
                found = simple_evaluate(
                    model=lm,
                    tasks=list(tasks),
                    task_manager=loaded,  # pyright: ignore[reportArgumentType]
                    **options,
                )
                found = None if found is None else {**found, **prompt_facts(lm, options)}
            else:
                _seed(loaded, options)
                # `evaluate` has other defaults than `simple_evaluate`, few-shot turns among them
                chosen = {**_DEFAULTS, **{name: value for name, value in options.items() if name in _OPTIONS}}
                found = evaluate(lm=lm, task_dict=loaded.load(), **chosen)
            results.append({} if found is None else _complete(dict(found), results[0] if results else {}, lm))
            if on_result is not None:
                on_result(index, results[-1])
    finally:
        lm.applied, lm.memo = own, None
    return results


def score_configurations(
    lm: AppliedMixin,
    requests: Sequence[Instance],
    configurations: Sequence[Configuration],
    disable_tqdm: bool = False,
) -> list[list[Score]]:
    """Score log-likelihood requests under many configurations as evaluations would, images included.

    Args:
        lm: A `grains_hf` or `grains_vllm` model; its own setting is put aside and comes back afterwards.
        requests: As a task makes them.
        configurations: What steers; the empty one is the unsteered model.
        disable_tqdm: Show no progress.

    Returns:
        Per configuration and request, the sum in nats and whether every token was the most likely one. One pass gives
        all configurations where contexts can be shared, else one pass each does.

    Raises:
        GrainsError: a request that the model cannot take, or positions that its plain path cannot tell apart.
    """
    own, lm.applied = lm.applied, ()
    found: list[list[Score]] = []
    try:
        lm.memo = Memo(configurations)
        for index in range(len(configurations)):
            lm.memo.active = index
            found.append(lm.loglikelihood(list(requests), disable_tqdm=disable_tqdm))
    finally:
        lm.applied, lm.memo = own, None
    return found


def _configuration(setting: Setting) -> tuple[Any, ...]:
    return tuple(item.resolved for item in setting if item.resolved is not None)


def _complete(found: dict[str, Any], first: dict[str, Any], lm: AppliedMixin) -> dict[str, Any]:
    """Add what `simple_evaluate` puts around `evaluate`'s results, with this setting's own description."""
    complete = {**{name: value for name, value in first.items() if name not in found}, **found}
    config = {**first.get("config", {}), **found.get("config", {})}
    return {**complete, "config": {**config, **lm.get_model_info()}}


def _seed(loaded: _Loaded, options: dict[str, Any]) -> None:
    """Start every generator where `simple_evaluate` starts it: settings see the same few-shot examples."""
    seeds = {name: options.get(name, default) for name, default in _SEEDS.items()}
    if seeds["random_seed"] is not None:
        random.seed(seeds["random_seed"])
    if seeds["numpy_random_seed"] is not None:
        np.random.seed(seeds["numpy_random_seed"])
    if seeds["torch_random_seed"] is not None:
        torch.manual_seed(seeds["torch_random_seed"])
    for task in loaded.load()["tasks"].values():
        task.set_fewshot_seed(seed=seeds["fewshot_random_seed"])


class _Loaded:
    """A task manager that loads once: settings are evaluated on the very same task objects."""

    def __init__(self, manager: TaskManager, tasks: list[str]) -> None:
        self._manager, self._tasks = manager, manager.load(tasks)

    def load(self, *_: Any) -> Any:
        return self._tasks

    def __getattr__(self, name: str) -> Any:
        return getattr(self._manager, name)
