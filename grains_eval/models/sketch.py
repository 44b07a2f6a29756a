"""A model of a configuration alone: no weights are read and no memory is taken, but its passes can be measured.

Its tensors are torch's fake ones, which have shapes and no numbers. So one pass of the real architecture tells its
floating-point operations and how many bytes live at a time.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel
from transformers.initialization import no_init_weights

from grains_eval.errors import GrainsError, kind_and_line
from grains_eval.models.forward import fork, shares_prefix
from grains_eval.models.layers import find_decoder, hidden_size, text_config
from grains_eval.models.loading import check_names, is_vision_language, read_config

_ATEN: Any = torch.ops.aten
# where logits are more than the product with the output embeddings, so that all of them are made
_CHANGED_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling")
# whose weights have another size than their configuration's dtype says
_RESIZED = (
    "load_in_4bit",
    "load_in_8bit",
    "quantization_config",
    "gguf_file",
    "gptqmodel",
    "autogptq",
    "peft",
    "delta",
)


def _grouped(left: Any, right: Any, *_: Any, out_val: Any = None, **__: Any) -> int:
    """Operations of the experts' product: every token with its own expert's matrix."""
    del right
    return 2 * prod(out_val.shape) * int(left.shape[-1])


# the registry knows attention on GPUs only, and no experts
_OPERATIONS: Mapping[Any, Callable[..., int]] = {
    **flop_registry,
    _ATEN._scaled_dot_product_flash_attention_for_cpu: flop_registry[_ATEN._scaled_dot_product_flash_attention],
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        _ATEN._scaled_dot_product_flash_attention_backward
    ],
    _ATEN._grouped_mm: _grouped,
}


class Meter(TorchDispatchMode):
    """Counts what runs inside it.

    Attributes:
        operations: Floating-point operations of matrix products, attention included.
        live: Bytes of tensors that were made inside and still live.
        peak: The most that lived at a time.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.operations = self.live = self.peak = 0
        # held, so that no other storage gets their identity
        self._known = {id(storage): storage for storage in (tensor.untyped_storage() for tensor in known)}
        self._seen: dict[int, Any] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count it."""
        del types
        output = func(*args, **(kwargs or {}))
        count = _OPERATIONS.get(func.overloadpacket)
        if count is not None:
            self.operations += count(*args, **(kwargs or {}), out_val=output)
        for made in tree_leaves(output):
            if isinstance(made, Tensor):
                self._note(made.untyped_storage())
        return output

    def _note(self, storage: Any) -> None:
        key = id(storage)
        if key in self._seen or key in self._known:
            return
        size = int(storage.nbytes())
        self.live += size
        self.peak = max(self.peak, self.live)

        def gone(_: Any) -> None:
            self.live -= size
            self._seen.pop(key, None)

        self._seen[key] = weakref.ref(storage, gone)


@dataclass(frozen=True)
class Sketch:
    """A model without numbers.

    Attributes:
        model: Its parameters are fake tensors and ask for no gradient.
        mode: Inside it, new tensors are fake too.
        dtype: In which the weights would be loaded.
    """

    model: PreTrainedModel
    mode: FakeTensorMode
    dtype: torch.dtype

    @property
    def parameters(self) -> int:
        """Number of parameters, tied ones once."""
        return sum(each.numel() for each in self.model.parameters())

    @property
    def weights(self) -> int:
        """Bytes of parameters and buffers."""
        return sum(each.numel() * each.element_size() for each in (*self.model.parameters(), *self.model.buffers()))

    @property
    def largest_part(self) -> int:
        """Bytes of the largest module that is never split over devices: a decoder layer, or the embeddings."""
        parts = [module for module in self.model.modules() if isinstance(module, nn.Embedding | nn.Linear)]
        for layers in self.model.modules():
            if isinstance(layers, nn.ModuleList):
                parts += list(layers)
        return max(sum(each.numel() * each.element_size() for each in part.parameters()) for part in parts)

    @property
    def vision_parameters(self) -> int:
        """Parameters outside the text decoder and its output embeddings: what sees images."""
        text: list[Any] = [find_decoder(self.model), self.model.get_output_embeddings()]
        own = {id(each) for module in text if module is not None for each in module.parameters()}
        return sum(each.numel() for each in self.model.parameters() if id(each) not in own)

    @contextmanager
    def metered(self) -> Generator[Meter, None, None]:
        """Count what runs inside the block, on tensors without numbers."""
        meter = Meter((*self.model.parameters(), *self.model.buffers()))
        with self.mode, meter:
            yield meter


def sketch(arguments: Mapping[str, Any]) -> Sketch:
    """The model that `arguments` name, from its configuration alone.

    Args:
        arguments: lm-eval's model arguments; `pretrained` may be a folder with a `config.json` and nothing else.

    Raises:
        GrainsError: no configuration, a model with an encoder, weights whose size it does not tell, or an architecture
            that torch cannot sketch.
    """
    resized = [name for name in _RESIZED if arguments.get(name)]
    if resized:
        raise GrainsError(f"the size of weights with {resized[0]} is not in the model's configuration; leave it out")
    config = read_config(arguments)
    check_names(arguments)
    if getattr(config, "quantization_config", None) is not None:
        raise GrainsError("the checkpoint is quantised: the size of its weights is not in its configuration")
    if config.is_encoder_decoder:
        raise GrainsError("its encoder reads the prompt, and builds need a decoder that does")
    dtype = _dtype(arguments, config)
    kind: Any = AutoModelForImageTextToText if is_vision_language(config) else AutoModelForCausalLM
    options = {name: arguments[name] for name in ("attn_implementation", "trust_remote_code") if name in arguments}
    mode = FakeTensorMode()
    try:
        with mode, no_init_weights():
            model: PreTrainedModel = kind.from_config(config, dtype=dtype, **options).eval()
    except Exception as error:  # an architecture may do anything while it is made
        raise GrainsError(f"{config.model_type}: torch cannot sketch it ({kind_and_line(error)})") from error
    return Sketch(model.requires_grad_(False), mode, dtype)


def _dtype(arguments: Mapping[str, Any], config: Any) -> torch.dtype:
    """What the weights are loaded in: `dtype=`, else the configuration's own, else float32 as in transformers."""
    given = arguments.get("dtype", "auto")
    if isinstance(given, torch.dtype):
        return given
    if given != "auto":
        return cast(torch.dtype, getattr(torch, given))
    own = getattr(config, "dtype", None) or getattr(config.get_text_config(decoder=True), "dtype", None)
    return cast(torch.dtype, getattr(torch, own)) if isinstance(own, str) else own or torch.float32


@dataclass(frozen=True)
class Cost:
    """Floating-point operations of passes: so many per token and so many per pair of a token and one it attends to.

    Attributes:
        token: Forward, per token.
        pair: Forward, per pair.
        token_backward: Backward to the embeddings, per token; parameters ask for no gradient.
        pair_backward: Backward, per pair.
        read: Per position whose logits are read.
    """

    token: float
    pair: float
    token_backward: float
    pair_backward: float
    read: float


@dataclass(frozen=True)
class Peak:
    """Bytes that one attributed row takes, beside the weights.

    Attributes:
        activations: Kept until the backward pass.
        gradients: Of the prompt's embeddings, of which captum makes copies.
        row: The most that lives at a time, both included.
        fixed: What comes on top whatever the number of rows: the part of the logits that is there at a time.
    """

    activations: int
    gradients: int
    row: int
    fixed: int


def cost(drawn: Sketch, length: int) -> Cost:
    """Measure forward and backward passes of two lengths up to `length` tokens, and solve for what they are made of.

    Raises:
        GrainsError: an architecture that torch cannot sketch.
    """
    long, short = max(length, 8), max(length // 2, 4)
    (forward, backward), (forward_short, backward_short) = (_pass(drawn, tokens) for tokens in (long, short))
    head: Any = drawn.model.get_output_embeddings()
    read = 2.0 * head.weight.numel()

    def solve(whole: int, part: int) -> tuple[float, float]:
        pair = (whole / long - part / short) / (long - short)
        return whole / long - pair * long, pair

    token, pair = solve(forward, forward_short)
    token_backward, pair_backward = solve(backward, backward_short)
    return Cost(token, pair, token_backward, pair_backward, read)


def _pass(drawn: Sketch, tokens: int) -> tuple[int, int]:
    """Operations of one row forward and backward through the decoder, without the output embeddings."""
    decoder = find_decoder(drawn.model)
    with drawn.metered() as meter, _refused(drawn):
        rows = torch.zeros(1, tokens, hidden_size(drawn.model), dtype=drawn.dtype, requires_grad=True)
        states = decoder(inputs_embeds=rows, use_cache=True).last_hidden_state
        forward = meter.operations
        states.float().sum().backward()
        return forward, meter.operations - forward


def peak(drawn: Sketch, prompt: int, responses: tuple[int, int], part: int) -> Peak:
    """Measure one attributed row: a prompt and both responses after it, forward and backward.

    Args:
        drawn: The model.
        prompt: Tokens.
        responses: Tokens of each.
        part: Logits that are there at a time, see `vocabulary`.

    Raises:
        GrainsError: an architecture that torch cannot sketch.
    """
    head: Any = drawn.model.get_output_embeddings()
    reads = 2 * max(responses)
    with drawn.metered() as meter, _refused(drawn):
        rows = torch.zeros(1, prompt, hidden_size(drawn.model), requires_grad=True)
        states = _read_states(drawn, rows, max(responses) - 1)
        activations = meter.live
        (gradient,) = torch.autograd.grad(states.float().sum(), rows)
        scaled = gradient.contiguous() * 1.0  # captum weighs a copy
        gradients = 2 * rows.numel() * rows.element_size()
        del scaled, gradient, states
    # logits, their exponentials and a copy in float32, with those in half precision that it was made of
    element = 12 + (2 if drawn.dtype.itemsize < 4 else 0)
    logits = reads * int(head.weight.shape[0])
    config = text_config(drawn.model)
    if any(getattr(config, name, None) not in (None, 1, 1.0) for name in _CHANGED_LOGITS):
        return Peak(activations, gradients, max(meter.peak, activations + logits * element), 0)
    return Peak(activations, gradients, meter.peak, min(part, logits) * element)


def cache_per_token(drawn: Sketch) -> int:
    """Bytes of keys and values that an evaluation keeps per token; 0 for a model that keeps states instead."""
    with drawn.metered(), _refused(drawn):
        held = [
            sum(each.numel() * each.element_size() for layer in cache.layers for each in (layer.keys, layer.values))
            for tokens in (8, 16)
            if (cache := _cache(drawn, tokens)) is not None
        ]
    return (held[1] - held[0]) // 8 if held else 0


def _cache(drawn: Sketch, tokens: int) -> Any:
    if not shares_prefix(drawn.model):
        return None
    rows = torch.zeros(1, tokens, hidden_size(drawn.model), dtype=drawn.dtype)
    with torch.no_grad():
        return find_decoder(drawn.model)(inputs_embeds=rows, use_cache=True).past_key_values


def _read_states(drawn: Sketch, rows: Tensor, fed: int) -> Tensor:
    """States behind the log-probabilities of two responses, of which `fed` tokens each are run."""
    decoder, embeddings = find_decoder(drawn.model), rows.to(drawn.dtype)
    tail = torch.zeros(2, fed, rows.shape[-1], dtype=drawn.dtype)
    if not shares_prefix(drawn.model):
        wholes = [torch.cat([embeddings, each[None]], dim=1) for each in tail]
        found = [decoder(inputs_embeds=whole, use_cache=False).last_hidden_state for whole in wholes]
        return torch.cat([each[:, rows.shape[1] - 1 :] for each in found])
    output = decoder(inputs_embeds=embeddings, use_cache=True)
    last = output.last_hidden_state[:, -1:].expand(2, -1, -1)
    if not fed:
        return last
    cache = fork(output.past_key_values, 2)
    later = decoder(inputs_embeds=tail, past_key_values=cache, use_cache=True).last_hidden_state
    return torch.cat([last, later], dim=1)


@contextmanager
def _refused(drawn: Sketch) -> Generator[None, None, None]:
    try:
        yield
    except Exception as error:  # a family may look at numbers, which are not there
        name = type(drawn.model).__name__
        raise GrainsError(f"{name}: torch cannot sketch its passes ({kind_and_line(error)})") from error
