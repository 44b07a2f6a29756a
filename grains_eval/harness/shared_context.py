"""Score continuations of shared contexts, for many steering configurations at once.

A context runs once per configuration and its continuations branch off its keys and values; contexts that
begin alike share that beginning too; logits are computed only where a continuation is read; blocks below the
first steered one run once for all configurations. Sums agree with lm-eval's `hf` to rounding (1e-5 in
float32).
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.api.instance import Instance
from tqdm import tqdm
from transformers import PreTrainedModel

from grains_eval.errors import GrainsError
from grains_eval.harness.plan import Group, cluster, group
from grains_eval.harness.rows import Score
from grains_eval.harness.scorer import Progress, Scorer, limits_for
from grains_eval.harness.sharing import shareable
from grains_eval.harness.stacking import Configuration

if TYPE_CHECKING:
    _Base = Any
else:
    _Base = object

logger = logging.getLogger(__name__)

Request = tuple[tuple[str, str] | None, list[int], list[int]]


@dataclass(frozen=True)
class PreparedContext:
    """A context that its caller has prepared, with pictures for instance.

    Attributes:
        inputs: Keywords of the model's forward for this one context, without padding (`input_ids [1, T]`,
            pixels, ...).
        continuations: Token ids of what is scored after it, each at least one.
    """

    inputs: Mapping[str, Any]
    continuations: Sequence[Sequence[int]]


def score(
    model: PreTrainedModel,
    requests: Sequence[tuple[Sequence[int], Sequence[int]]],
    configurations: Sequence[Configuration],
    *,
    max_length: int,
    batch_size: int | str = 1,
    softmax_dtype: torch.dtype | None = None,
    progress: Progress | None = None,
) -> list[list[Score]]:
    """Sum the log-probabilities of continuations given their contexts.

    Args:
        model: A decoder-only model for which `sharing.shareable` holds.
        requests: Token ids of context and continuation; truncated as lm-eval does.
        configurations: Steering configurations; the empty one is the unsteered model.
        max_length: Tokens that the model takes.
        batch_size: As lm-eval's, or `auto`. It bounds memory, not rows: short contexts run more at a time.
        softmax_dtype: Type of the log-softmax; None is the model's own, as in lm-eval.
        progress: Called with the number of requests that were finished.

    Returns:
        Per configuration and request, the sum in nats and whether every token was the most likely one.

    Raises:
        GrainsError: an empty or too long request, or a layer that the model lacks.
    """
    groups, owners = group(requests, max_length)
    longest = max((len(each.context) + max(map(len, each.continuations)) for each in groups), default=1)
    scorer = Scorer(model, configurations, limits_for(model, batch_size, longest), softmax_dtype, progress)
    for each in cluster(groups):
        scorer.run(each)
    repeats = len(owners) - len(set(owners))
    if progress is not None and repeats:
        progress(repeats)
    return [[found[owner] for owner in owners] for found in scorer.results]


def score_prepared(
    model: PreTrainedModel,
    contexts: Iterable[PreparedContext],
    configurations: Sequence[Configuration],
    *,
    batch_size: int | str = 1,
    softmax_dtype: torch.dtype | None = None,
    progress: Progress | None = None,
) -> list[list[list[Score]]]:
    """Score continuations of prepared contexts, one context after another; see `score`.

    Returns:
        Per configuration, context and continuation, the sum in nats and whether every token was the most
        likely one.
    """
    scorer: Scorer | None = None
    owners: list[range] = []
    for context in contexts:
        continuations = tuple(tuple(each) for each in context.continuations)
        width, start = context.inputs["input_ids"].shape[1], owners[-1].stop if owners else 0
        owners.append(range(start, start + len(continuations)))
        if scorer is None:
            limits = limits_for(model, batch_size, width + max(map(len, continuations)))
            scorer = Scorer(model, configurations, limits, softmax_dtype, progress)
        # the tokens themselves are in `inputs`; only their number matters here
        branching = Group((0,) * width, continuations, tuple(owners[-1]), extendable=False)
        scorer.prepared(branching, context.inputs)
    found = [] if scorer is None else scorer.results
    return [[[each[owner] for owner in rows] for rows in owners] for each in found or [{} for _ in configurations]]


@dataclass
class Memo:
    """Scores of every configuration of a sweep, kept between evaluations that ask for the same requests.

    Attributes:
        configurations: What is scored in one pass.
        active: Index of the one whose evaluation is running.
        scores: Per request, the scores under every configuration.
    """

    configurations: Sequence[Configuration]
    active: int = 0
    scores: dict[Hashable, list[Score]] = field(default_factory=dict[Hashable, list[Score]])


class SharedContextMixin(_Base):
    """Log-likelihood requests through `score`; whatever it cannot do goes to the harness, under hooks.

    The model that takes it in has `steering_configuration`, the `Configuration` of every forward pass, and
    `steering()`, a context manager that applies it with hooks.

    Attributes:
        share_context: Whether to.
        memo: The sweep that is running, if any.
    """

    share_context: bool = True
    memo: Memo | None = None

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Score]:
        """See `hf`; a sweep that has scored all these requests already tokenizes nothing."""
        memo = self.memo
        if memo is not None and all(len(each.args) == 2 and each.args in memo.scores for each in requests):
            return [memo.scores[request.args][memo.active] for request in requests]
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def _loglikelihood_tokens(
        self, requests: list[Request], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[Score]:
        # rolling requests carry no strings: their windows share nothing
        together = self.share_context and all(request[0] is not None for request in requests)
        if not together or not requests or self.backend != "causal" or not shareable(self.model):
            placed = next((each.positions for each in self.steering_configuration if each.positions != "all"), None)
            if placed is not None:
                remedy = "this model or these requests leave only positions=all"
                raise GrainsError(
                    f"positions={placed} cannot be told apart when prompt and answer run together; "
                    + (remedy if self.share_context else "use share_context=true")
                )
            with self.steering():
                return super()._loglikelihood_tokens(requests, disable_tqdm=disable_tqdm, override_bs=override_bs)
        if self.memo is None:
            found = [each[0] for each in self._shared(requests, [self.steering_configuration], disable_tqdm)]
            for (strings, _, _), answer in zip(requests, found, strict=True):
                self.cache_hook.add_partial("loglikelihood", strings, answer)
            return found
        # lm-eval's cache knows no configurations, so a sweep writes nothing to it
        memo = self.memo
        new = [request for request in requests if request[0] not in memo.scores]
        for request, scores in zip(new, self._shared(new, memo.configurations, disable_tqdm), strict=True):
            memo.scores[request[0]] = scores
        return [memo.scores[request[0]][memo.active] for request in requests]

    def _shared(
        self, requests: Sequence[Request], configurations: Sequence[Configuration], disable_tqdm: bool
    ) -> list[list[Score]]:
        """Per request, its score under every configuration."""
        longest = max((len(context) + len(answer) for _, context, answer in requests), default=0)
        if longest > self.max_length + 1:
            logger.warning(
                "requests of up to %d tokens are cut from the left to the %d that the model takes",
                longest,
                self.max_length,
            )
        precision = self.mixed_precision_dtype
        bar = tqdm(
            total=len(requests),
            disable=disable_tqdm or self.rank != 0 or not requests,
            desc="Running loglikelihood requests, contexts shared",
        )
        with bar, torch.autocast(self.device.type, dtype=precision, enabled=precision is not None):
            scores = score(
                self.model,
                [(context, answer) for _, context, answer in requests],
                configurations,
                max_length=self.max_length,
                batch_size=self.batch_size,
                softmax_dtype=self.softmax_dtype,
                progress=bar.update,
            )
        return [list(each) for each in zip(*scores, strict=True)]
