"""What scores a study's requests under many settings: the model it builds on, or a vLLM engine beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from grains_eval.errors import GrainsError, pick
from grains_eval.harness.applied_artifacts import AppliedMixin
from grains_eval.harness.cache_key import HARMLESS
from grains_eval.vllm.checks import check_one_process

HF, VLLM = "hf", "vllm"
BACKENDS = {HF: "the model that vectors are built on", VLLM: "a vLLM engine with the same weights"}

_SETTINGS = 32  # settings that an engine holds at a time; more than that take turns
# arguments that both take under the same name
_COMMON = frozenset(
    {
        *("pretrained", "revision", "dtype", "trust_remote_code", "tokenizer", "max_length", "add_bos_token"),
        *("prefix_token_id", "max_gen_toks", "enable_thinking", "think_end_token", "chat_template_args"),
    }
)
# how Hugging Face computes its numbers; vLLM has its own ways
_HF_ONLY = HARMLESS | {"softmax_dtype", "share_context", "backend", "use_fast_tokenizer", "attn_implementation"}


@dataclass(frozen=True)
class Backend:
    """How a study's requests are answered.

    Attributes:
        name: A key of `BACKENDS`.
        arguments: Further arguments of the engine, e.g. `gpu_memory_utilization`, `tensor_parallel_size`.
    """

    name: str = HF
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        pick(BACKENDS, self.name, "backend")
        if self.name == VLLM:
            check_one_process()
        if self.name == HF and self.arguments:
            raise GrainsError(
                f"backend_args has '{next(iter(self.arguments))}' but the backend is hf; give backend=vllm"
            )


PLAIN = Backend()


def load_engine(model_args: Mapping[str, Any], backend: Backend) -> AppliedMixin | None:
    """The engine that scores in the model's place; None where the model scores itself.

    Raises:
        GrainsError: a model argument that the engine cannot take, or anything that `grains_vllm` refuses.
    """
    if backend.name == HF:
        return None
    from grains_eval.vllm.model import GrainsVLLM

    return GrainsVLLM.of(engine_arguments(model_args, backend))


def engine_arguments(model_args: Mapping[str, Any], backend: Backend) -> dict[str, Any]:
    """Arguments of `grains_vllm` for the model that `grains_hf` takes `model_args` for.

    Raises:
        GrainsError: an argument that changes the numbers and means nothing to vLLM.
    """
    foreign = [name for name in model_args if name not in _COMMON | _HF_ONLY]
    if foreign:
        raise GrainsError(
            f"model argument '{foreign[0]}' cannot be handed to vLLM; leave it out, name vLLM's own in --backend_args, "
            "or use --backend hf"
        )
    shared = {name: value for name, value in model_args.items() if name in _COMMON}
    return {"max_settings": _SETTINGS, "batch_size": "auto", **shared, **backend.arguments}
