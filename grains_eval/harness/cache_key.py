"""The key of `--use_cache`: everything that can change a number.

Arguments are in the key unless they are listed as harmless, so that unforeseen ones are in it. Weights, tokenizer
and processor are in it by content: a name says nothing about a model in memory, or about a folder that was overwritten.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import align_module_device
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from grains_eval import plugins
from grains_eval.errors import GrainsError
from grains_eval.models.loading import HarnessModel
from grains_eval.versions import package_versions

HARMLESS = frozenset(
    {
        # how many requests run together, and whether one pass answers several: rounding, which no cache promises
        *("batch_size", "max_batch_size", "logits_cache"),
        # where weights lie and how they get there: rounding as well
        *("device", "device_map", "parallelize", "max_memory", "max_memory_per_gpu", "max_cpu_memory"),
        *("offload_folder", "tp_plan", "low_cpu_mem_usage"),
        # from where they are fetched, by whom
        *("token", "cache_dir", "local_files_only", "force_download", "proxies"),
        # the steering, which is in the key as it is applied
        *("vectors", "strength", "layers", "unit", "operator", "positions", "tokens", "distance", "form"),
        # in the key by their content
        "plugins",
    }
)
"""Arguments of `grains_hf` that are not in the key."""

_PACKAGES = ("grains-eval", "lm_eval", "transformers", "tokenizers", "peft")


def complete(kind: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a model class as given, the defaults of all its constructors filled in, without harmless ones."""
    settled: dict[str, Any] = {}
    for each in reversed(kind.__mro__):
        if "__init__" in each.__dict__:
            parameters = inspect.signature(each.__init__).parameters.values()
            settled |= {one.name: one.default for one in parameters if one.default is not one.empty}
    return {name: value for name, value in {**settled, **given}.items() if name not in HARMLESS}


def cache_key(lm: HarnessModel, arguments: Mapping[str, Any], steering: Any) -> str:
    """Hash of whatever can change an answer, 16 hexadecimal digits.

    Args:
        lm: The lm-eval model.
        arguments: What it was made with.
        steering: What is applied to it, free of paths.

    Raises:
        GrainsError: weights that cannot be read.
    """
    model: Any = lm.model
    peft: Mapping[str, Any] = getattr(model, "peft_config", {})
    processor = getattr(lm, "processor", None)
    described = {
        "arguments": complete(type(lm), arguments),
        "classes": [type(lm), type(model)],
        "config": model.config,
        "generation": getattr(model, "generation_config", None),
        "max_length": lm.max_length,
        "adapters": {**peft, "layers": _adapter_states(model)} if peft else None,
        "weights": weights_digest(model),
        "reading": [files_digest(each) for each in (lm.tokenizer, processor) if each is not None],
        "steering": steering,
        "plugins": plugins.digests(),
        "versions": package_versions(_PACKAGES),
    }
    return hashlib.sha256(json.dumps(_plain(described), sort_keys=True).encode()).hexdigest()[:16]


_ADAPTER_STATES = ("active_adapters", "active_adapter", "disable_adapters", "merged_adapters", "scaling")


def _adapter_states(model: nn.Module) -> dict[str, Any]:
    """Of every adapted layer, which adapters act on it and how strongly."""
    layers = {name: module for name, module in model.named_modules() if hasattr(module, "disable_adapters")}
    return {
        name: {key: getattr(module, key, None) for key in _ADAPTER_STATES if not callable(getattr(module, key, None))}
        for name, module in layers.items()
    }


def _plain(value: Any) -> Any:
    """A value as JSON holds it, so that equal settings look alike."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(json.dumps(_plain(item), sort_keys=True) for item in value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, type):
        return value.__qualname__
    if isinstance(value, PreTrainedModel | PreTrainedTokenizerBase | ProcessorMixin | nn.Module):
        return type(value).__qualname__  # its content is in the key
    if hasattr(value, "to_dict"):
        return [type(value).__qualname__, _plain(value.to_dict())]
    return str(value) if isinstance(value, Path) else repr(value)


def weights_digest(model: PreTrainedModel) -> str:
    """Hash of every weight: names, types, shapes and numbers, wherever they lie.

    Raises:
        GrainsError: a weight that is not there.
    """
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        owner, _, leaf = name.rpartition(".")
        offloaded = isinstance(value, Tensor) and value.is_meta
        place = align_module_device(model.get_submodule(owner), torch.device("cpu")) if offloaded else nullcontext()
        with place:
            held = getattr(model.get_submodule(owner), leaf) if offloaded else value
            for part in _parts(held):
                if part.is_meta:
                    raise GrainsError(f"use_cache: the weight {name} cannot be read; run without use_cache")
                digest.update(f"{name} {part.dtype} {tuple(part.shape)}".encode())
                raw: Any = part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
                digest.update(raw)
    return digest.hexdigest()


def _parts(value: Any) -> Iterator[Tensor]:
    """The plain tensors that a weight is made of (several where it is quantised)."""
    if not isinstance(value, Tensor):  # what modules keep beside their tensors
        yield torch.frombuffer(bytearray(repr(value).encode()), dtype=torch.uint8)
    elif hasattr(value, "__tensor_flatten__"):
        names, context = cast(Any, value).__tensor_flatten__()
        yield from _parts(context)
        for name in names:
            yield from _parts(getattr(value, name))
    else:
        yield value


def files_digest(kept: Any) -> str:
    """Hash of the files that a tokenizer or processor would be saved to."""
    digest = hashlib.sha256(type(kept).__qualname__.encode())
    with tempfile.TemporaryDirectory() as folder:
        kept.save_pretrained(folder)
        for file in sorted(Path(folder).rglob("*")):
            if file.is_file():
                digest.update(str(file.relative_to(folder)).encode() + b"\0")
                digest.update(_without_state(file))
    return digest.hexdigest()


def _without_state(file: Path) -> bytes:
    content = file.read_bytes()
    if file.name != "tokenizer.json":
        return content
    # how the last call padded and cut
    kept = {name: value for name, value in json.loads(content).items() if name not in ("truncation", "padding")}
    return json.dumps(kept, sort_keys=True).encode()
