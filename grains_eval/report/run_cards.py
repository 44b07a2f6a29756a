"""The facts about a run that a reader needs to repeat it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from grains_eval.comparison.runs import Run
from grains_eval.report.data import Role, RunCard

_FACTS = (
    ("model", ("model_name",)),
    ("model class", ("config", "model")),
    ("model arguments", ("config", "model_args")),
    ("model revision", ("config", "model_revision")),
    ("model commit", ("config", "model_sha")),
    ("number format", ("config", "model_dtype")),
    ("date", ("date",)),
    ("lm_eval", ("lm_eval_version",)),
    ("lmms_eval", ("lmms_eval_version",)),
    ("inspect_ai", ("inspect_ai_version",)),
    ("transformers", ("transformers_version",)),
    ("git", ("git_hash",)),
    ("device argument", ("config", "device")),
    ("batch size", ("config", "batch_size")),
    ("limit", ("config", "limit")),
    ("generation settings", ("config", "gen_kwargs")),
    ("chat template", ("chat_template_sha",)),
    ("system instruction", ("system_instruction",)),
    ("scoring path", ("config", "scoring_path")),
    ("why this path", ("config", "scoring_path_reason")),
    ("steering fingerprint", ("config", "steering_fingerprint")),
)


def run_card(run: Run, role: Role) -> RunCard:
    """Collect the facts of a run, leaving out what the results do not say."""
    facts: list[tuple[str, str]] = []
    for label, path in _FACTS:
        value = run.setting(*path)
        if value not in (None, "", [], {}):
            facts.append((label, _text(label, value)))
    seeds = {kind: run.setting("config", f"{kind}_seed") for kind in ("random", "numpy", "torch", "fewshot")}
    facts.append(("seeds", ", ".join(f"{kind} {seed}" for kind, seed in seeds.items() if seed is not None)))
    tasks = ", ".join(
        f"{task} (version {run.setting('versions', task)}, {run.setting('n-shot', task) or 0}-shot)"
        for task in run.tasks[:8]
    )
    facts.append(("tasks", tasks + (f" and {len(run.tasks) - 8} more" if len(run.tasks) > 8 else "")))
    facts.extend((f"vector {index}", _steering(entry)) for index, entry in enumerate(run.steering, start=1))
    return RunCard(
        name=run.name,
        role=role,
        file=", ".join(file.name for file in run.files),
        digest=run.digest,
        facts=tuple((label, text) for label, text in facts if text),
        setting=" + ".join(filter(None, map(setting_text, run.steering))),
    )


def setting_text(entry: Mapping[str, Any]) -> str:
    """How an artifact is applied: `3: 1` or `2/4/5: 0.5 absolute` (vectors), `kv: 1 token, 8 back` (found tokens)."""
    contrast = entry.get("contrast")
    if isinstance(contrast, Mapping):
        return f"α {float(cast(Mapping[str, Any], contrast)['alpha']):.3g}"
    if "form" in entry:
        return _tokens(entry)
    layers, strength = entry.get("layers"), entry.get("strength")
    if layers is None or strength is None:
        return ""
    return f"{_layers(layers)}: {strength:.3g}{' absolute' if entry.get('unit') == 'absolute' else ''}"


def _layers(layers: Sequence[Any]) -> str:
    numbers = [int(layer) for layer in layers]
    whole = len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1))
    return f"{numbers[0]}-{numbers[-1]}" if whole else "/".join(map(str, numbers))


def _tokens(entry: Mapping[str, Any]) -> str:
    """Form, number and distance of found tokens, and what is not as usual: multiplicity, layers."""
    distances: Sequence[Any] = entry.get("distances") or [entry.get("distance")]
    count = len(distances) if entry.get("distances") else int(entry.get("tokens", 1))
    back = "/".join(str(each) for each in dict.fromkeys(distances) if each is not None)
    parts = [f"{entry['form']}: {count} token{'s' * (count > 1)}", f"{back} back" if back else ""]
    strength = -math.inf if entry.get("strength") is None else float(entry["strength"])  # JSON has no infinity
    if strength == -math.inf:
        return f"{entry['form']}: off"
    if strength:
        parts.append(f"×{math.exp(strength):.2g}")
    if entry.get("every_layer") is False:
        parts.append(f"layers {_layers(entry.get('layers') or ())}")
    return ", ".join(filter(None, parts))


def _text(label: str, value: Any) -> str:
    if isinstance(value, Mapping):
        settings = cast(Mapping[str, Any], value)
        return ",".join(f"{key}={item}" for key, item in settings.items())
    text = str(value)
    if label == "date":
        return _date(value)
    return text[:12] if label in ("chat template", "git") else text


def _date(value: Any) -> str:
    from datetime import datetime, timezone

    try:
        return datetime.fromtimestamp(float(value), timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    except (TypeError, ValueError, OSError, OverflowError):
        return str(value)


def _steering(entry: Mapping[str, Any]) -> str:
    hashes = entry.get("doc_hashes")
    shown = {key: value for key, value in entry.items() if key != "doc_hashes" and value not in (None, [], {})}
    if isinstance(hashes, Mapping):
        for use, documents in cast(Mapping[str, Any], hashes).items():
            if use in ("build", "development", "shots"):
                shown[f"{use} documents"] = len(documents)
    return ", ".join(
        f"{key} {value if isinstance(value, str | int | float) else json.dumps(value, default=str)}"
        for key, value in shown.items()
    )
