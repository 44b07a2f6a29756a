"""The conditions of two evaluations: which must agree, and which are only noted where they differ.

Everything that a results file records is compared, except for the entries listed here that change no number. What the
model was asked, and how its answers were scored, must be the same; the models may differ, and each difference is
named.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

Results = Mapping[str, Any]

# Model arguments that the comparison is about.
STEERING_ARGUMENTS = frozenset({
    "vectors", "strength", "layers", "unit", "operator", "positions", "tokens", "distance", "form", "plugins",
})  # fmt: skip
# Model arguments that say where and how fast a model runs.
_HARMLESS_ARGUMENTS = frozenset({
    "device", "device_map", "device_map_option", "batch_size", "max_batch_size", "parallelize",
    "max_memory_per_gpu", "max_cpu_memory", "offload_folder", "low_cpu_mem_usage", "logits_cache", "cache_dir",
    "token", "gpus", "share_context", "data_parallel_size", "tensor_parallel_size",
    "pipeline_parallel_size", "gpu_memory_utilization", "swap_space", "max_num_seqs", "num_concurrent",
    "max_retries", "timeout",
})  # fmt: skip
# Entries of `config` that change no number or are compared elsewhere: `gen_kwargs` in each task, `scoring_path` apart.
_HARMLESS_CONFIG = frozenset({
    "model_args", "steering", "steering_fingerprint", "scoring_path", "scoring_path_reason",
    "evaluated_docs_used_to_build", "evaluated_docs_used_to_tune", "batch_size", "batch_sizes", "use_cache",
    "limit", "bootstrap_iters", "gen_kwargs",
})  # fmt: skip
# Entries of the results themselves that are numbers, times, or contained in another entry (texts by their hashes).
_HARMLESS_RESULTS = frozenset({
    "results", "groups", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples",
    "config", "samples", "task_hashes", "date", "start_time", "end_time", "total_evaluation_time_seconds",
    "git_hash", "upper_git_hash", "pretty_env_info", "model_source", "model_name", "model_name_sanitized",
    "chat_template", "chat_template_sha", "system_instruction", "system_instruction_sha", "fewshot_as_multiturn",
})  # fmt: skip
# Entries of a task's config that change no number, or that items are compared by: documents, targets, choices.
_HARMLESS_TASK = frozenset({
    "task", "tag", "group", "alias", "task_alias", "group_alias", "metadata", "doc_to_target", "doc_to_choice",
    "target_delimiter", "process_docs", "should_decontaminate", "doc_to_decontamination_query", "training_split",
    "validation_split", "test_split", "unsafe_code", "num_fewshot", "judged_samples",
})  # fmt: skip
# Entries of a task's config that make its prompts; the prompts are compared instead, where they are logged alike.
_PROMPT_TASK = frozenset({
    "doc_to_text", "description", "fewshot_config", "fewshot_split", "fewshot_delimiter", "gen_prefix", "use_prompt",
})  # fmt: skip
# How a task's answers are made and scored.
SCORING = frozenset({
    "output_type", "generation_kwargs", "repeats", "filter_list", "metric_list", "process_results", "doc_to_image",
    "doc_to_audio", "judge",
})  # fmt: skip
# Settings that decide how much of its input a model reads, and in which form.
_READING = frozenset({
    "max_length", "add_bos_token", "tokenizer", "truncation", "prefix_token_id", "chat_template_args",
    "enable_thinking", "think_end_token", "max_images", "min_pixels", "max_pixels", "interleave",
    "convert_img_format", "image_width", "image_height", "image_max_side", "image_string", "image_token_id",
})  # fmt: skip
_LABELS = {
    "pretrained": "models differ",
    "model": "backends differ",
    "lm_eval_version": "lm_eval versions differ",
    "transformers_version": "transformers versions differ",
    "torch_version": "torch versions differ",
    "model_dtype": "number formats differ",
    "model_revision": "revisions differ",
    "model_sha": "commits differ",
}
# Model arguments, and the entry that records their effective value, given or not.
_EFFECTIVE = {"dtype": "model_dtype", "revision": "model_revision", "max_length": "max_length"}
_ONE_BACKEND = frozenset({
    "hf", "huggingface", "hf-auto", "hf-multimodal", "grains_hf",
})  # fmt: skip
_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")
_TORCH = re.compile(r"PyTorch version: (\S+)")
_SHOWN = 48  # characters of a value


@dataclass(frozen=True)
class Difference:
    """One condition that differs between two evaluations.

    Attributes:
        name: The condition, as the results call it.
        first: Its value in the first; None where it was not given.
        second: Its value in the second.
        task: The task it belongs to, None for the model and the run.
        refused: Whether it makes the numbers incomparable.
    """

    name: str
    first: Any
    second: Any
    task: str | None = None
    refused: bool = False

    def says(self, first: str, second: str) -> str:
        """One clause that names both values.

        Args:
            first: Name of the first evaluation.
            second: Name of the second.
        """
        what = f"task '{self.task}': {self.name} differs" if self.task else _LABELS.get(self.name)
        one, two = _around(_text(self.first), _text(self.second))
        return f"{what or f'{self.name} differs'}: {one} in '{first}', {two} in '{second}'"


def model_differences(first: Results, second: Results) -> list[Difference]:
    """How the models and their surroundings differ, steering aside.

    Args:
        first: A results file's content.
        second: Another's.
    """
    found: list[Difference] = []
    one, two = (model_arguments(results) for results in (first, second))
    if one and two:
        found += _compared(one, two, _HARMLESS_ARGUMENTS | STEERING_ARGUMENTS, absent_is_default=True)
    elif _name(first, one) != _name(second, two):
        found.append(Difference("pretrained", _name(first, one), _name(second, two)))
    same_model = not any(difference.name in ("pretrained", "peft", "delta") for difference in found)
    ours, theirs = (_surroundings(results) for results in (first, second))
    if any(_is_adapted(results) for results in (first, second)):  # an adapter brings parameters of its own
        ours.pop("model_num_parameters", None)
    settled = {given for given, held in _EFFECTIVE.items() if ours.get(held) and theirs.get(held)}
    found = [each for each in found if each.name not in settled]
    found += _compared(ours, theirs, _HARMLESS_CONFIG | _HARMLESS_RESULTS)
    return [replace(each, refused=same_model and each.name in _READING) for each in found]


def task_differences(first: Results, second: Results, task: str, *, same_prompts: bool = True) -> list[Difference]:
    """How one task was asked and scored differently, beyond what its samples show.

    Between two releases of lm_eval nothing is refused: they write the same task in different words.

    Args:
        first: A results file's content.
        second: Another's.
        task: A task of both.
        same_prompts: Whether the prompts themselves are compared, item by item.
    """
    one, two = (cast(Mapping[str, Any], _at(results, "configs", task) or {}) for results in (first, second))
    one_release = first.get("lm_eval_version") == second.get("lm_eval_version")
    harmless = _HARMLESS_TASK | (_PROMPT_TASK if same_prompts else frozenset())
    return [
        replace(each, task=task, refused=one_release and each.name in SCORING | _PROMPT_TASK)
        for each in _compared(one, two, harmless, absent_is_default=one_release)
    ]


def steering_differences(first: Results, second: Results) -> list[Difference]:
    """Whether two evaluations were steered differently; the conditions that are compared elsewhere."""
    keys = ("steering", "steering_fingerprint")
    one, two = ({key: _at(results, "config", key) for key in keys} for results in (first, second))
    arguments = [
        {key: value for key, value in model_arguments(results).items() if key in STEERING_ARGUMENTS}
        for results in (first, second)
    ]
    prompting = [
        {key: results.get(key) for key in ("chat_template_sha", "system_instruction_sha", "fewshot_as_multiturn")}
        for results in (first, second)
    ]
    return [
        *_compared(arguments[0], arguments[1], (), absent_is_default=True),
        *_compared(one, two, (), absent_is_default=True),
        *_compared(prompting[0], prompting[1], (), absent_is_default=True),
    ]


def model_arguments(results: Results) -> dict[str, Any]:
    """`--model_args` as a mapping; lm-eval logs what it was given, a mapping or `key=value,…`."""
    given = _at(results, "config", "model_args")
    if isinstance(given, Mapping):
        return dict(cast(Mapping[str, Any], given))
    found: dict[str, Any] = {}
    key = ""
    for part in str(given or "").split(","):
        name, equals, value = part.partition("=")
        if equals:
            key = name.strip()
            found[key] = value
        elif key:  # a comma within a value
            found[key] = f"{found[key]},{part}"
    return found


def _surroundings(results: Results) -> dict[str, Any]:
    config = cast(Mapping[str, Any], results.get("config") or {})
    found = {**results, **{key: value for key, value in config.items() if key not in _HARMLESS_CONFIG}}
    if str(found.get("model")) in _ONE_BACKEND:
        found["model"] = "hf"
    if isinstance(found.get("device"), str):
        found["device"] = found["device"].partition(":")[0]
    torch = _TORCH.search(str(results.get("pretty_env_info", "")))
    if torch:
        found["torch_version"] = torch.group(1)
    return found


def _compared(
    first: Mapping[str, Any], second: Mapping[str, Any], harmless: Collection[str], *, absent_is_default: bool = False
) -> list[Difference]:
    """Entries that differ; one that is recorded in one mapping alone counts only where absence means the default."""
    names = [name for name in dict.fromkeys([*first, *second]) if name not in harmless]
    if not absent_is_default:
        names = [name for name in names if first.get(name) not in (None, "") and second.get(name) not in (None, "")]
    return [
        Difference(name, first.get(name), second.get(name))
        for name in names
        if _plain(first.get(name)) != _plain(second.get(name))
    ]


def _plain(value: Any) -> Any:
    """A value in one spelling: `true` is True, `torch.float32` is `float32`, and absent is False."""
    if value is None or value is False or value in ("", {}, []) or str(value).lower() in ("none", "false"):
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in cast(Mapping[Any, Any], value).items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in cast(Sequence[Any], value)]
    if value is True or str(value).lower() == "true":
        return True
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return _ADDRESS.sub("", str(value).removeprefix("torch."))


def _name(results: Results, arguments: Mapping[str, Any]) -> Any:
    return arguments.get("pretrained") or results.get("model_name")


def _is_adapted(results: Results) -> bool:
    """Whether a LoRA artifact acts: an artifact with neither layers nor an instruction nor a contrast."""
    entries = _at(results, "config", "steering") or ()
    others = {"layers", "instruction", "contrast"}
    return isinstance(entries, list) and any(
        isinstance(entry, Mapping) and others.isdisjoint(cast(Mapping[str, Any], entry))
        for entry in cast(list[Any], entries)
    )


def _at(results: Results, *path: str) -> Any:
    value: Any = results
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _text(value: Any) -> str:
    if value is None or value in ("", {}, []):
        return "not given"
    return " ".join((value if isinstance(value, str) else json.dumps(value, default=str)).split())


def _around(first: str, second: str) -> tuple[str, str]:
    """Two long texts, cut to where they begin to differ."""
    start = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), 0)
    start = 0 if max(len(first), len(second)) <= _SHOWN else max(0, start - _SHOWN // 3)

    def cut(text: str) -> str:
        end = start + _SHOWN
        return f"{'…' if start else ''}{text[start:end]}{'…' if len(text) > end else ''}"

    return cut(first), cut(second)
