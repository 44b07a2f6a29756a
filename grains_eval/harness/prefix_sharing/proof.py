"""Whether contexts may be shared: a cache of plain keys and values, and real requests scored both ways.

No model is known here by its name. Of every batch a few requests are scored again, each alone in a plain
pass over its whole row, as lm-eval's `hf` does at batch size 1; scores that differ by more than rounding send the
model to the plain path from there on, the batch at hand included.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from grains_eval.errors import GrainsError
from grains_eval.harness.prefix_sharing.configurations import Configuration, moving
from grains_eval.harness.prefix_sharing.probes import Probe, spread
from grains_eval.harness.prefix_sharing.targets import Score
from grains_eval.models.hooks import forget_positions, logits_at
from grains_eval.models.layers import find_layers, text_config
from grains_eval.models.rounding import rounding
from grains_eval.steering import applied

logger = logging.getLogger(__name__)


@dataclass
class Standing:
    """What is known about a model.

    Attributes:
        obstacle: Why its contexts are not shared; None while they are.
        used: Whether requests were scored with shared contexts.
        proved: Scores that were computed both ways and agreed.
        furthest: The largest difference among them, nats.
        causal: For text and for images, whether later tokens were seen to leave earlier ones alone.
    """

    obstacle: str | None = None
    used: bool = False
    proved: int = 0
    furthest: float = 0.0
    causal: frozenset[bool] = frozenset()


class Deviation(Exception):
    """A shared score that is not the plain one."""


_standings: WeakKeyDictionary[PreTrainedModel, Standing] = WeakKeyDictionary()


def standing(model: PreTrainedModel) -> Standing:
    """What is known about a model so far; made on first use, from its structure alone."""
    if model not in _standings:
        _standings[model] = Standing()
        obstacle = _structure(model)
        if obstacle is not None:
            give_up(model, obstacle)
    return _standings[model]


def shareable(model: PreTrainedModel) -> bool:
    """Whether shared contexts may be tried: nothing in the model's structure or in earlier requests rules it out.

    State-space and linear-attention layers, chunked attention, encoder-decoder models and models without output
    embeddings are scored plainly.
    """
    return standing(model).obstacle is None


def give_up(model: PreTrainedModel, obstacle: str) -> None:
    """Score this model plainly from now on, and log the reason once."""
    standing(model).obstacle = obstacle
    logger.warning("%s: contexts are not shared, %s; scoring takes the plain path", type(model).__name__, obstacle)


def describe(model: PreTrainedModel, wanted: bool) -> tuple[str, str]:
    """The scoring path of log-likelihoods and the reason for it.

    Args:
        model: The model.
        wanted: `share_context`.
    """
    if not wanted:
        return "plain", "share_context=false"
    known = standing(model)
    checked = f"scores computed both ways: {known.proved}, {known.furthest:.1e} nats apart at most"
    if known.obstacle is None:
        return "shared_context", checked if known.used else "no log-likelihood was asked for"
    return ("shared_context, then plain" if known.used else "plain"), known.obstacle


def _structure(model: PreTrainedModel) -> str | None:
    config = text_config(model)
    if model.config.is_encoder_decoder:
        return "it has an encoder"
    if model.get_output_embeddings() is None:
        return "it has no output embeddings"
    if "chunked_attention" in (getattr(config, "layer_types", None) or ()):
        return "its attention is chunked"
    try:
        find_layers(model)
    except GrainsError:  # unsteered, such a model is evaluated all the same
        return "its decoder layers are not found"
    try:
        kinds = {type(layer) for layer in DynamicCache(config=config).layers}
    except Exception as error:  # a configuration of an unknown kind; plain scoring is always right
        return f"its cache cannot be made ({type(error).__name__})"
    if not kinds <= {DynamicLayer, DynamicSlidingWindowLayer}:
        return "its cache holds more than keys and values"
    return None


@contextmanager
def attempt(model: PreTrainedModel) -> Generator[None, None, None]:
    """Try to share contexts inside the block; if anything goes wrong there, the model takes the plain path.

    Raises:
        GrainsError: of the requests, as it is.
        torch.OutOfMemoryError: as it is.
    """
    try:
        yield
        standing(model).used = True
    except (GrainsError, torch.OutOfMemoryError):
        raise
    except Deviation as deviation:
        give_up(model, str(deviation))
    except Exception as error:  # an unknown family may fail anywhere; plain scoring is always right
        lines = str(error).splitlines()
        give_up(model, f"sharing failed ({type(error).__name__}: {lines[0] if lines else ''})")


class Proof:
    """Compares shared scores with plain ones as soon as they are available.

    The unsteered configuration and one of every kind of steering are compared, in the very passes whose scores are
    reported.
    """

    def __init__(self, model: PreTrainedModel, configurations: Sequence[Configuration]) -> None:
        self.model = model
        self.configurations = [moving(each) for each in configurations]
        self.chosen = spread(self.configurations)
        self.pending: list[Probe] = []

    def check(self, results: Sequence[Mapping[int, Score]]) -> None:
        """Compare what has been scored of the pending probes.

        Args:
            results: Per configuration, the shared scores by request.

        Raises:
            Deviation: scores differ by more than rounding.
            GrainsError: the model's earlier tokens see later ones.
        """
        ready = [probe for probe in self.pending if all(probe.owner in results[index] for index in self.chosen)]
        self.pending = [probe for probe in self.pending if probe not in ready]
        for probe in ready:
            for index in self.chosen:
                self._compare(probe, self.configurations[index], results[index][probe.owner][0])
        if ready:
            forget_positions(self.model)

    def _compare(self, probe: Probe, configuration: Configuration, shared: float) -> None:
        known, allowed = standing(self.model), rounding(self.model, probe.answer)

        def plainly(last: int | None) -> float:
            _forget_lengths(self.model)
            with ExitStack() as steered:
                for each in configuration:
                    steered.enter_context(applied(self.model, each, torch.tensor([probe.prompt])))
                return probe.plainly(last)

        # another last token than the answer's: one pass shows that sharing is right and that nothing sees ahead
        off = apart(shared, plainly(_OTHER[0]))
        if not off <= allowed:
            off = apart(shared, plainly(None))
            if not off <= allowed:
                tokens = f"{probe.prompt} prompt and {probe.answer} answer tokens"
                steered = "steered, " if configuration else ""
                raise Deviation(f"a request of {tokens} was {steered}off by {off:.1e} nats")
            _refuse_foresight(self.model, plainly, probe.answer)
        known.proved += 1
        known.furthest = max(known.furthest, off)


# ids that every vocabulary has
_OTHER = (0, 1)


def check_causal(
    model: PreTrainedModel, plainly: Callable[[int], float], tokens: int, *, images: bool, again: bool = False
) -> None:
    """Refuse a model whose earlier tokens see later ones: an answer scored in one pass would be scored from itself.

    Checked once per model, for text and for images. `Proof` checks the same where contexts are shared.

    Args:
        model: The model.
        plainly: Score of a real request in a pass whose last token, which nothing that is read may see, is given.
        tokens: Tokens of its answer.
        images: Whether the request shows images.
        again: Check even if this was checked before.

    Raises:
        GrainsError: the last token changes what comes before it.
    """
    known = standing(model)
    if images in known.causal and not again:
        return
    _refuse_foresight(model, plainly, tokens)
    _forget_lengths(model)
    forget_positions(model)
    known.causal |= {images}


def _refuse_foresight(model: PreTrainedModel, plainly: Callable[[int], float], tokens: int) -> None:
    first, second = (plainly(token) for token in _OTHER)
    off = apart(first, second)
    if not off <= rounding(model, tokens):
        raise GrainsError(
            f"{type(model).__name__} lets tokens see later ones: another last token moved the log-probability of the "
            f"answer before it by {off:.1e} nats, so answers would be scored from themselves; "
            "log-likelihoods need a model whose attention is causal"
        )


@torch.no_grad()
def plain_logprob(
    model: PreTrainedModel,
    context: Sequence[int],
    answer: Sequence[int],
    last: int | None = None,
    dtype: torch.dtype | None = None,
) -> float:
    """`log p(answer | context)` in one pass over the whole row, without cache, padding or other rows.

    Args:
        model: A decoder.
        context: Token ids.
        answer: Token ids.
        last: A token to put where the answer's last one would be, after everything that is read; None leaves it
            out, as lm-eval's `hf` does.
        dtype: Type of the log-softmax; None is the model's own.

    Returns:
        The sum over the answer's tokens, nats.
    """
    row = [*context, *answer[:-1], *([] if last is None else [last])]
    device = next((each.device for each in model.parameters() if not each.is_meta), torch.device("cpu"))
    forget_positions(model)
    with ExitStack() as fewer:
        if last is not None and model.get_output_embeddings() is not None:
            fewer.enter_context(logits_at(model, lambda hidden: hidden[:, -len(answer) - 1 : -1]))
            last = None  # it has no logits
        logits = model(torch.tensor([row], device=device)).logits[0]
    logits = logits[-len(answer) :] if last is None else logits[-len(answer) - 1 : -1]
    logprobs = logits.log_softmax(dim=-1, dtype=dtype)
    return float(logprobs.gather(-1, torch.tensor(answer, device=logits.device)[:, None]).double().sum())


def apart(left: float, right: float) -> float:
    """Distance of two scores; zero where they are the same, infinite or undefined ones included."""
    return 0.0 if left == right or (left != left and right != right) else abs(left - right)


def _forget_lengths(model: PreTrainedModel) -> None:
    """Undo what `dynamic` position scales keep of the longest row so far; a row of one token resets them."""
    for module in model.modules():
        own: Any = getattr(module, "original_max_seq_len", None)  # one name per layer type, or one for all
        if own is not None and any(
            name.endswith("max_seq_len_cached") and value > own for name, value in vars(module).items()
        ):
            with torch.no_grad():
                model(torch.zeros(1, 1, dtype=torch.long, device=model.device))
            return
