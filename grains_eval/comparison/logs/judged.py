"""Scores of a judge in a run, which hold only for the generations that it was shown."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from grains_eval.comparison.logs import lm_eval
from grains_eval.comparison.runs import Run
from grains_eval.errors import GrainsError

CONFIG_KEY = "judged_samples"
_WHAT = ("doc_id", "filter", "doc_hash", "prompt_hash", "target_hash", "filtered_resps")


def samples_digest(run: Run, task: str) -> str:
    """16 hex digits over what a judge is asked about: documents, prompts, targets and responses of a task.

    Raises:
        GrainsError: see `lm_eval.rows`.
    """
    rows = sorted(json.dumps([row.get(key) for key in _WHAT]) for row in lm_eval.rows(run, task))
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]


def without_stale(run: Run) -> Run:
    """The run without scores of generations that it no longer holds, which its notes name.

    Scores that do not record what was judged, or whose task is not in the run, are left as they are.
    """
    stale: dict[str, str] = {}
    for task in run.tasks:
        config: Any = run.setting("configs", task, CONFIG_KEY)
        judged = cast(Mapping[str, Any], config) if isinstance(config, Mapping) else {}
        source = judged.get("task")
        if source not in run.tasks:
            continue
        try:
            if samples_digest(run, str(source)) != judged.get("digest"):
                stale[task] = f"the generations of '{source}' are others than those that were judged"
        except GrainsError as error:
            stale[task] = f"the generations that were judged cannot be read ({error})"
    if not stale:
        return run
    results = {
        key: {name: entry for name, entry in value.items() if name not in stale} if key in lm_eval.BY_TASK else value
        for key, value in run.results.items()
    }
    return replace(
        run,
        results=results,
        sources={task: source for task, source in run.sources.items() if task not in stale},
        notes=(
            *run.notes,
            *(f"task '{task}' is left out: {why}; judge again with --overwrite" for task, why in stale.items()),
        ),
    )
