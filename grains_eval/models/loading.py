"""Load a model through lm-eval's own classes, so that building and evaluating share every argument and every token."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from lm_eval.models.hf_vlms import HFMultimodalLM
from lm_eval.models.huggingface import HFLM
from lm_eval.utils import simple_parse_args_string
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from grains_eval.errors import GrainsError, first_line, unknown
from grains_eval.models.processes import expect_cpu_processes

_BACKENDS = ("default", "causal", "seq2seq")
# what `from_pretrained` of transformers takes beyond lm-eval's own arguments and the configuration's keys
_LOADING = (
    "attn_implementation", "cache_dir", "code_revision", "config", "device_map", "device_mesh",
    "distributed_config", "dtype", "experts_implementation", "force_download", "generation_config",
    "ignore_mismatched_sizes", "kernel_config", "key_mapping", "load_in_4bit", "load_in_8bit", "local_files_only",
    "low_cpu_mem_usage", "max_memory", "offload_buffers", "offload_folder", "output_loading_info", "proxies",
    "quantization_config", "state_dict", "subfolder", "token", "torch_dtype", "tp_plan", "tp_size",
    "use_auth_token", "use_kernels", "use_safetensors", "variant", "weights_only",
)  # fmt: skip

# lm-eval's HFLM: the untyped decorator that registers the class hides its members from type checkers
HarnessModel: TypeAlias = Any


@dataclass(frozen=True)
class LoadedModel:
    """A model with the lm-eval object that tokenizes for it.

    Attributes:
        lm: lm-eval's model object, an `HFLM`.
        model: The Hugging Face model, in evaluation mode.
        tokenizer: Its tokenizer.
        processor: Its image processor, None for text models.
        engine: The lm-eval model that scores in its place, with the same weights; None where it scores by itself.
    """

    lm: HarnessModel
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    processor: ProcessorMixin | None = None
    engine: HarnessModel | None = None

    @property
    def scorer(self) -> HarnessModel:
        """What answers requests under steering settings."""
        return self.lm if self.engine is None else self.engine

    @property
    def is_vision_language(self) -> bool:
        """Whether prompts may hold images."""
        return self.processor is not None

    @classmethod
    def of(cls, lm: HarnessModel) -> LoadedModel:
        """Wrap an lm-eval model that is already there."""
        processor = getattr(lm, "processor", None)  # of HFMultimodalLM alone
        return cls(lm=lm, model=lm.model, tokenizer=lm.tokenizer, processor=processor)


def parse_model_args(model_args: str | Mapping[str, Any]) -> dict[str, Any]:
    """lm-eval's `key=value,key=value` as a mapping."""
    return simple_parse_args_string(model_args) if isinstance(model_args, str) else dict(model_args)


def is_vision_language(config: Any) -> bool:
    """Whether a Hugging Face config belongs to a model that takes images and writes text."""
    return config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES and hasattr(config, "vision_config")


def read_config(arguments: Mapping[str, Any]) -> Any:
    """The Hugging Face config of `pretrained`.

    Raises:
        GrainsError: `pretrained` is missing, or names neither a folder nor a reachable hub model.
    """
    pretrained = arguments.get("pretrained")
    if pretrained is None:
        raise GrainsError("model_args has no 'pretrained'; write --model_args pretrained=<folder or hub id>")
    if not isinstance(pretrained, str):
        return pretrained.config
    if pretrained.startswith(("/", "./", "../", "~")) and not Path(pretrained).expanduser().is_dir():
        raise GrainsError(f"pretrained='{pretrained}' is not a folder; give a folder with a config.json, or a hub id")
    try:
        return AutoConfig.from_pretrained(
            pretrained,
            revision=str(arguments.get("revision", "main")),
            subfolder=arguments.get("subfolder", ""),
            trust_remote_code=bool(arguments.get("trust_remote_code", False)),
            gguf_file=arguments.get("gguf_file"),
        )
    except ImportError as error:
        raise missing_package(pretrained, error) from error
    except (OSError, ValueError) as error:
        raise GrainsError(f"cannot load pretrained='{pretrained}': {first_line(error)}") from error


def missing_package(pretrained: Any, error: ImportError) -> GrainsError:
    """The error for a missing package: Qwen-VL needs torchvision for videos, SmolVLM num2words, a GGUF file gguf."""
    reason = " ".join(str(error).split()).split(". ")[0] or "a package is missing"
    needed = next((name for name in ("torchvision", "num2words", "gguf") if name in str(error).lower()), None)
    advice = f"pip install {needed}" if needed else "install it"
    return GrainsError(f"cannot load '{pretrained}': {reason}; {advice} and start again")


def check_names(arguments: Mapping[str, Any], device: str | None = None) -> None:
    """Refuse values for which lm-eval raises a traceback or which it silently ignores.

    Raises:
        GrainsError: a dtype or device unknown to torch, an unknown backend, or no number where one is needed.
    """
    for name in ("max_length", "max_batch_size", "prefix_token_id"):
        least = 0 if name == "prefix_token_id" else 1
        value = arguments.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            raise GrainsError(f"{name}={value} is not a whole number from {least} on")
    backend = arguments.get("backend", "default")
    if backend not in _BACKENDS:
        raise GrainsError(f"backend={backend} is not known; write {', '.join(_BACKENDS)}")
    bos = arguments.get("add_bos_token")
    if bos is not None and not isinstance(bos, bool):
        raise GrainsError(f"add_bos_token={bos} is neither true nor false")
    for name in ("softmax_dtype", "mixed_precision_dtype"):
        value = arguments.get(name)
        if isinstance(value, str) and not isinstance(getattr(torch, value, None), torch.dtype):
            raise GrainsError(f"{name}={value} is not a torch dtype; write float32, bfloat16 or float16")
    dtype = arguments.get("dtype", "auto")
    if isinstance(dtype, str) and dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise GrainsError(f"dtype={dtype} is not a torch dtype; write float32, bfloat16, float16 or auto")
    place = device or arguments.get("device")
    try:
        torch.device(str(place or "cpu"))
    except RuntimeError as error:
        raise GrainsError(f"device={place} is not a device; write cpu, cuda, cuda:0 or mps") from error
    # lm_eval's own default is cuda:0, which it turns into the CPU where there is no GPU
    if str(place) == "cuda" and not torch.cuda.is_available():
        raise GrainsError("device=cuda: torch finds no GPU here; write device=cpu or install torch with CUDA")


def check_arguments(arguments: Mapping[str, Any], config: Any, extra: Sequence[str] = ()) -> None:
    """Refuse misspelt model arguments without loading the model, whose constructor refuses them else.

    Args:
        arguments: lm-eval's model arguments.
        config: The model's configuration, whose own keys may be given.
        extra: Further arguments that are known.

    Raises:
        GrainsError: an argument that neither lm-eval, nor transformers when it loads a model, nor the config knows.
    """
    kinds = (HFLM, HFMultimodalLM) if is_vision_language(config) else (HFLM,)
    known = {*extra, *(name for kind in kinds for name in inspect.signature(kind.__init__).parameters)}
    known -= {"self", "args", "kwargs"}
    for name in arguments:
        if name not in known and name not in _LOADING and not hasattr(config, name):
            raise unknown(name, known, "model argument")


def unknown_argument(error: TypeError, extra: Sequence[str] = ()) -> GrainsError | None:
    """The error for a misspelt model argument, which `hf` hands down to the model's constructor; None for another."""
    match = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if match is None:
        return None
    known = {*extra, *inspect.signature(HFLM.__init__).parameters} - {"self", "kwargs"}
    return unknown(match.group(1), known, "model argument")


def load(
    model_args: str | Mapping[str, Any], *, device: str | None = None, batch_size: int | str | None = None
) -> LoadedModel:
    """Load what `lm_eval --model hf` (or `hf-multimodal`) would load.

    Args:
        model_args: lm-eval's string, or a mapping; everything that `hf` accepts.
        device: As lm-eval's `--device`; by default the first GPU, or the CPU where there is none.
        batch_size: As lm-eval's `--batch_size`.

    Raises:
        GrainsError: the checkpoint cannot be read, or its processor needs a package that is not installed.
    """
    expect_cpu_processes()
    arguments = parse_model_args(model_args)
    kind = HFMultimodalLM if is_vision_language(read_config(arguments)) else HFLM
    if device is None and "device" not in arguments:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    check_names(arguments, device)
    extra = {"device": device, "batch_size": batch_size}
    given = {k: v for k, v in extra.items() if v is not None}
    try:
        return LoadedModel.of(kind.create_from_arg_obj(arguments, given))
    except ImportError as error:
        raise missing_package(arguments.get("pretrained"), error) from error
    except TypeError as error:
        raise unknown_argument(error) or error from error
