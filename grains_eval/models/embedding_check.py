"""Check that a build computes what the harness scores, on the user's own examples, before anything costly.

Builds start from embeddings and, where they can, run a prompt once for both responses. A family may read more than
embeddings (Gemma 3n), and a cached prompt may not continue as one whole pass would (MiniMax, position scales that
change with length). So the first examples, and those where this would show, are also run plainly: from token ids and
pixels, as `hf` runs them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeVar
from weakref import WeakSet

import torch
from torch import Tensor
from transformers import PreTrainedModel

from grains_eval.errors import GrainsError, kind_and_line
from grains_eval.models.activations import captured, prompt_states, response_states
from grains_eval.models.encoded import EncodedExample
from grains_eval.models.encoding import encode, without_sharing
from grains_eval.models.forward import response_logprobs
from grains_eval.models.hooks import forget_positions
from grains_eval.models.layers import mentioned_lengths, text_config
from grains_eval.models.loading import LoadedModel
from grains_eval.models.memory import is_out_of_memory
from grains_eval.models.rounding import TOLERANCES, tolerance
from grains_eval.types import PreferenceExample

logger = logging.getLogger(__name__)

T = TypeVar("T")
_FIRST = 2  # examples that are always compared
_warned: WeakSet[PreTrainedModel] = WeakSet()


def encode_all(
    loaded: LoadedModel,
    examples: Sequence[PreferenceExample],
    visual_baseline: str = "blank",
    *,
    reads_states: bool = True,
) -> list[EncodedExample]:
    """Encode examples for a build and check on some of them that the build computes what the harness scores.

    Where running a prompt once for both responses gives other numbers, a warning says so and every response of these
    examples runs with its prompt.

    Args:
        loaded: The model.
        examples: What to build from.
        visual_baseline: What stands for an absent image; see `recipes.AttributionConfig`.
        reads_states: Whether layer outputs are read too, and not log-likelihoods alone.

    Raises:
        GrainsError: an example that cannot be encoded or scored, or a model whose log-likelihoods or layer outputs from
            embeddings are not those of its own forward pass.
    """
    encoded = [encode(loaded, example, visual_baseline) for example in examples]
    chosen = representative(encoded, mentioned_lengths(text_config(loaded.model)))
    if not chosen:
        return encoded
    expected = _attempt(lambda: [_plain(loaded, encoded[index], reads_states) for index in chosen])
    if isinstance(expected, Exception):
        raise GrainsError(
            f"{_family(loaded.model)} itself fails where the harness would run it ({kind_and_line(expected)})"
        ) from expected

    def worst() -> Difference:
        pairs = zip(chosen, expected, strict=True)
        found = [one for index, plain in pairs for one in _compared(loaded, encoded[index], plain, reads_states)]
        return max(found, key=lambda one: one.over)

    shared = _attempt(worst)
    if isinstance(shared, Difference) and shared.over <= 1:
        return encoded
    off = shared
    if encoded[0].share_prefix:
        encoded = [without_sharing(loaded, example) for example in encoded]
        off = _attempt(worst)
    if isinstance(off, Exception):
        raise GrainsError(
            f"{_family(loaded.model)} cannot be run from embeddings, which builds start from "
            f"({kind_and_line(off)}); choose another model"
        ) from off
    if off.over > 1:
        raise GrainsError(
            f"{_family(loaded.model)}: what a build computes from embeddings is not what the model scores: {off.text}; "
            f"vectors from it would be wrong: choose another model{_hint(loaded)}"
        )
    _warn(loaded.model, shared)
    return encoded


def _hint(loaded: LoadedModel) -> str:
    exact = tolerance(loaded.model, _autocast(loaded)) == TOLERANCES[torch.float32]
    return "" if exact else ", or dtype=float32 if you take this for rounding"


def representative(encoded: Sequence[EncodedExample], lengths: Sequence[int]) -> list[int]:
    """Indices of the first examples and of those where a difference would show.

    These are the longest prompt, the longest response and the longest of both together, with images and without;
    responses of very different lengths; and, for each length in the model's configuration, an example whose
    response crosses it.
    """
    found = list(range(min(_FIRST, len(encoded))))
    for with_images in (False, True):
        same = [i for i, example in enumerate(encoded) if example.has_images is with_images]
        for size in (_prompt, _response, _whole, _unlike):
            found += sorted(same, key=lambda i, size=size: -size(encoded[i]))[:1]
        for length in lengths:
            found += [i for i in same if _prompt(encoded[i]) <= length < _whole(encoded[i])][:1]
    return list(dict.fromkeys(found))


def _prompt(example: EncodedExample) -> int:
    return len(example.input_ids)


def _response(example: EncodedExample) -> int:
    return max(len(example.chosen), len(example.rejected))


def _whole(example: EncodedExample) -> int:
    return _prompt(example) + _response(example)


def _unlike(example: EncodedExample) -> int:
    return abs(len(example.chosen) - len(example.rejected))


@dataclass(frozen=True)
class _Outcome:
    """Of one example: `[2]` log-probabilities of both responses, and `[S, L, H]` layer outputs where they are read.

    States: at the last prompt token, and at the last token of either response.
    """

    logprobs: Tensor
    states: Tensor | None


@dataclass(frozen=True)
class Difference:
    """Of one number or vector that was computed from embeddings and from token ids.

    Attributes:
        size: How large it is: of a log-probability in nats per root of its tokens, of a layer output as a share of its
            norm.
        allowed: What rounding explains of it.
        is_state: Whether it is a layer output's.
        text: What differs and by how much.
    """

    size: float
    allowed: float
    is_state: bool
    text: str

    @property
    def over(self) -> float:
        """Its size over what rounding explains."""
        return self.size / self.allowed if self.size == self.size else float("inf")


def differences(loaded: LoadedModel, example: EncodedExample, *, reads_states: bool = True) -> list[Difference]:
    """How far what a build computes of an example is from the model's own: log-probabilities and layer outputs.

    Raises:
        GrainsError: log-likelihoods that are not finite, or layer outputs that directions cannot be read from.
    """
    return _compared(loaded, example, _plain(loaded, example, reads_states), reads_states)


def _compared(loaded: LoadedModel, example: EncodedExample, expected: _Outcome, reads_states: bool) -> list[Difference]:
    found = _from_embeddings(loaded.model, example, reads_states)
    allowed = tolerance(loaded.model, _autocast(loaded))
    measured: list[Difference] = []
    for name, response, ours, theirs in zip(
        ("y+", "y-"), (example.chosen, example.rejected), found.logprobs, expected.logprobs, strict=True
    ):
        size = float((ours - theirs).abs()) / len(response) ** 0.5
        text = (
            f"example {example.example.id}: log p({name}) is {float(ours):.4f} where it should be {float(theirs):.4f}"
        )
        measured.append(Difference(size, allowed.nats, False, text))
    if found.states is not None and expected.states is not None:
        places = ("the last prompt token", "the end of y+", "the end of y-")
        for place, ours, theirs in zip(places, found.states, expected.states, strict=True):
            share = (ours - theirs).norm(dim=-1) / theirs.norm(dim=-1).clamp_min(torch.finfo(theirs.dtype).tiny)
            layer = int(share.argmax())
            text = (
                f"example {example.example.id}: the output of layer {layer} at {place} is off by "
                f"{100 * float(share[layer]):.1f} %"
            )
            measured.append(Difference(float(share[layer]), allowed.state, True, text))
    return measured


@torch.no_grad()
def _from_embeddings(model: PreTrainedModel, example: EncodedExample, reads_states: bool) -> _Outcome:
    rows = example.embeddings[None]
    logprobs = response_logprobs(model, example, rows)[0].cpu()
    if not reads_states:
        return _Outcome(logprobs, None)
    after = [response_states(model, example, rows, response)[0] for response in (example.chosen, example.rejected)]
    return _Outcome(logprobs, torch.stack([prompt_states(model, example, rows).last[0], *after]))


@torch.no_grad()
def _plain(loaded: LoadedModel, example: EncodedExample, reads_states: bool) -> _Outcome:
    """From token ids and pixels, through the harness's own calls.

    Raises:
        GrainsError: a log-likelihood that is not finite, or layer outputs of another shape than the residual stream's.
    """
    logprobs, states = list[Tensor](), list[Tensor]()
    if reads_states:
        states.append(_run(loaded, example, example.input_ids[:0], reads_states)[1])
    for response in (example.chosen, example.rejected):
        # a text request is run without its last token, one with images with it; its state is read in either case
        logits, state = _run(loaded, example, response, reads_states)
        if reads_states:
            states.append(state)
            if not example.has_images:
                logits, _ = _run(loaded, example, response[:-1], False)
        start = len(example.input_ids) - 1
        scored = logits[start : start + len(response)].float().log_softmax(dim=-1)
        logprobs.append(scored.gather(-1, response.to(scored.device)[:, None]).sum().cpu())
    found = torch.stack(logprobs)
    if not found.isfinite().all():
        raise GrainsError(
            f"example {example.example.id}: the model's own log-likelihoods are not finite; "
            "load it in float32 or bfloat16"
        )
    return _Outcome(found, torch.stack(states) if states else None)


def _run(loaded: LoadedModel, example: EncodedExample, response: Tensor, reads_states: bool) -> tuple[Tensor, Tensor]:
    """`[n, V]` logits and `[L, H]` layer outputs of the last token of prompt and response."""
    model = loaded.model
    forget_positions(model)
    with captured(model) if reads_states else nullcontext(dict[int, Tensor]()) as states:
        if example.has_images:
            from grains_eval.models.vision import harness_logits

            logits = harness_logits(loaded, example, response)
        else:
            logits = loaded.lm._model_call(torch.cat([example.input_ids, response])[None])[0]
    for layer, state in states.items():
        if state.ndim != 3 or state.shape[:2] != (1, len(logits)):
            raise GrainsError(
                f"{_family(model)}: layer {layer} gives {list(state.shape)} where [batch, tokens, hidden] is needed; "
                "directions cannot be read from it"
            )
    last = [states[layer][0, -1].float().cpu() for layer in sorted(states)]
    return logits, torch.stack(last) if last else torch.empty(0)


def _autocast(loaded: LoadedModel) -> torch.dtype | None:
    return getattr(loaded.lm, "mixed_precision_dtype", None)


def _attempt(run: Callable[[], T]) -> T | Exception:
    """The result of `run`, or the exception: a family that cannot take embeddings or caches may raise anything."""
    try:
        return run()
    except GrainsError:
        raise
    except Exception as error:
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            raise
        return error


@contextmanager
def refused_in_one_line(model: PreTrainedModel) -> Generator[None, None, None]:
    """Turn whatever a model raises on embeddings that belong to no token into an error that says so."""
    try:
        yield
    except GrainsError:
        raise
    except Exception as error:
        raise GrainsError(
            f"{_family(model)} cannot be attributed: it fails on embeddings between tokens ({kind_and_line(error)}); "
            "methods without attribution (caa, icv, iti) may work"
        ) from error


def _warn(model: PreTrainedModel, off: Difference | Exception) -> None:
    if model not in _warned:
        reason = off.text if isinstance(off, Difference) else f"it fails ({kind_and_line(off)})"
        logger.warning(
            "%s: prompts run with each response, not once for both, which takes up to twice as long; shared, %s",
            _family(model), reason,
        )  # fmt: skip
        _warned.add(model)


def _family(model: PreTrainedModel) -> str:
    return f"{type(model).__name__} (model type '{model.config.model_type}')"
