"""The `.pt` file that `lm_eval --model steered,steer_path=FILE` reads (`lm_eval.models.hf_steered`).

`{module: {"steering_vector", "steering_coefficient", "action", "bias", "head_index"}}`, modules named relative to
`model.base_model`. We write action `add` on whole decoder layers. lm-eval itself unpickles the file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES

from grains_eval.errors import GrainsError, told
from grains_eval.exchange.portable import PortableVectors, dense, layer_number
from grains_eval.exchange.registry import FORMATS, Format
from grains_eval.exchange.torch_files import is_torch_file, read_tensors
from grains_eval.models.layers import find_layers, hidden_size
from grains_eval.models.loading import read_config
from grains_eval.steering import check_layer

_LAYER = re.compile(r"^((?:[a-z_]\w*\.)+)([0-9]+)\Z")
_VECTOR, _COEFFICIENT, _ACTION = "steering_vector", "steering_coefficient", "action"


def _write(vectors: PortableVectors, file: Path) -> None:
    names = _layer_names(vectors)
    entries = {
        names[layer]: {
            _VECTOR: vectors.deltas[layer].detach().float().cpu().clone(),
            _COEFFICIENT: 1.0,
            _ACTION: "add",
            "bias": None,
            "head_index": None,
        }
        for layer in vectors.layers
    }
    torch.save(entries, file)


def _layer_names(vectors: PortableVectors) -> list[str]:
    """The decoder layers' names relative to `model.base_model`, from the configuration alone.

    Raises:
        GrainsError: the configuration cannot be read, or the vectors fit another model.
    """
    if not vectors.model_args.get("pretrained"):
        raise GrainsError("lm-eval names layers as the model does, and the artifact names no model; give --model_args")
    try:
        model = _skeleton(read_config(vectors.model_args))
    except GrainsError as error:
        raise GrainsError(
            f"lm-eval names layers as the model does, and its configuration cannot be read ({error}); name a folder or "
            "hub id that has one with --model_args pretrained=…"
        ) from error
    layers = find_layers(model)
    check_layer(vectors.layers[-1], len(layers))
    width = next(iter(vectors.deltas.values())).shape[0]
    if width != hidden_size(model):
        raise GrainsError(f"the vectors have width {width} but {type(model).__name__} needs {hidden_size(model)}")
    home = next((name for name, module in model.base_model.named_modules() if module is layers), None)
    if home is None:
        raise GrainsError(f"lm-eval looks for layers under base_model, where {type(model).__name__} has none")
    return [f"{home}.{index}" for index in range(len(layers))]


def _skeleton(config: Any) -> PreTrainedModel:
    """The model that `lm_eval --model hf` would make, without memory for its weights."""
    is_seq2seq = config.model_type in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    try:
        with torch.device("meta"):
            return (AutoModelForSeq2SeqLM if is_seq2seq else AutoModelForCausalLM).from_config(config)
    except (ValueError, ImportError) as error:
        raise GrainsError(f"{' '.join(str(error).split())[:200]}") from error


def _read(file: Path) -> PortableVectors:
    found: Any = read_tensors(file)
    if not _is_steered(found):
        raise GrainsError(f"'{file}' has no entries with '{_VECTOR}' and '{_ACTION}', which lm-eval reads")
    deltas: dict[int, Tensor] = {}
    homes: set[str] = set()
    for key, entry in cast(Mapping[Any, Mapping[str, Any]], found).items():
        name, match = told(key), _LAYER.match(key) if isinstance(key, str) else None
        if match is None:
            raise GrainsError(f"'{file}': '{name}' is no whole decoder layer, such as layers.14 or h.14")
        action: Any = entry[_ACTION]
        plain = isinstance(action, str) and action == "add"
        if not plain or entry.get("bias") is not None or entry.get("head_index") is not None:
            raise GrainsError(
                f"'{file}': '{name}' has action '{told(action)}', a bias or a head; only 'add' on whole layers can "
                "be imported"
            )
        try:
            coefficient = float(entry.get(_COEFFICIENT, 1.0))
        except (TypeError, ValueError, OverflowError, RuntimeError) as error:
            raise GrainsError(f"'{file}': '{name}' has a {_COEFFICIENT} that is no number, or too large") from error
        homes.add(match[1])
        if len(homes) > 1:
            among = " and ".join(told(home) for home in sorted(homes))
            raise GrainsError(f"'{file}' steers modules of {among}; give one list of layers")
        deltas[layer_number(match[2], deltas)] = dense(entry[_VECTOR], f"'{file}': '{name}'") * coefficient
    return PortableVectors(deltas)


def _is_steered(found: Any) -> bool:
    return (
        isinstance(found, Mapping)
        and bool(found)
        and all(
            isinstance(entry, Mapping) and isinstance(entry.get(_VECTOR), Tensor) and _ACTION in entry
            for entry in cast(Mapping[Any, Any], found).values()
        )
    )


def _recognises(file: Path) -> bool:
    return is_torch_file(file) and _is_steered(read_tensors(file))


FORMATS.add(
    "lm_eval_steered",
    Format(
        "lm-eval's own steered model",
        ".lm_eval_steered.pt",
        _write,
        _read,
        _recognises,
        use="lm_eval --model steered --model_args pretrained=MODEL,steer_path=FILE",
    ),
    __name__,
)
