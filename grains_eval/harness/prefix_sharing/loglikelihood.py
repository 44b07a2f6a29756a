"""Score continuations of shared contexts under many steering configurations at once.

A context runs once per configuration and its continuations branch off its keys and values; contexts that
start alike share that prefix too; logits are computed only where a continuation is read; layers below the
first steered one run once for all configurations. Sums agree with lm-eval's `hf` to rounding (1e-5 in
float32), which is seen to on the requests at hand (`proof.Proof`).
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.api.instance import Instance
from tqdm import tqdm
from transformers import PreTrainedModel

from grains_eval.errors import GrainsError
from grains_eval.harness.prefix_sharing.configurations import Configuration
from grains_eval.harness.prefix_sharing.plan import Group, PrefixGroup, group, group_by_prefix
from grains_eval.harness.prefix_sharing.probes import Candidate, Probe, candidates, choose, fed_kind
from grains_eval.harness.prefix_sharing.proof import Proof, attempt, check_causal, plain_logprob, shareable
from grains_eval.harness.prefix_sharing.scorer import Progress, Scorer, limits_for
from grains_eval.harness.prefix_sharing.targets import Score
from grains_eval.models.layers import mentioned_lengths, text_config

if TYPE_CHECKING:
    _Base = Any
else:
    _Base = object

logger = logging.getLogger(__name__)

Request = tuple[tuple[str, str] | None, list[int], list[int]]
Requests = Sequence[tuple[Sequence[int], Sequence[int]]]


@dataclass(frozen=True)
class PreparedContext:
    """A context that its caller has prepared, with images for instance.

    Attributes:
        inputs: Keywords of the model's forward for this one context, without padding (`input_ids [1, T]`,
            pixels, ...).
        continuations: Token ids of what is scored after it, each at least one.
        plainly: Score of a continuation, given by its index, in a plain pass; see `Probe.plainly`.
        images: Number of them.
    """

    inputs: Mapping[str, Any]
    continuations: Sequence[Sequence[int]]
    plainly: Callable[[int, int | None], float] | None = None
    images: int = 0


@dataclass(frozen=True)
class ScoringOptions:
    """How requests are scored.

    Attributes:
        batch_size: As lm-eval's, or `auto`. It bounds memory, not rows: short contexts run more at a time.
        softmax_dtype: Type of the log-softmax; None is the model's own, as in lm-eval.
        progress: Called with the number of requests that were finished.
    """

    batch_size: int | str = 1
    softmax_dtype: torch.dtype | None = None
    progress: Progress | None = None


def shared_scores(
    model: PreTrainedModel,
    requests: Requests,
    configurations: Sequence[Configuration],
    *,
    max_length: int,
    options: ScoringOptions = ScoringOptions(),
) -> list[list[Score]] | None:
    """`score`, as long as it gives this model's own numbers: some of these very requests are scored plainly as well.

    Returns:
        As `score`; None where the model takes the plain path, because of what is known of it or of what these
        requests show.

    Raises:
        GrainsError: as `score`, and where the model's earlier tokens see later ones.
    """
    if not shareable(model):
        return None
    found: list[list[Score]] | None = None
    with attempt(model):
        proof = Proof(model, configurations)
        found = score(model, requests, configurations, max_length=max_length, options=options, proof=proof)
    return found


def score(
    model: PreTrainedModel,
    requests: Requests,
    configurations: Sequence[Configuration],
    *,
    max_length: int,
    options: ScoringOptions = ScoringOptions(),
    proof: Proof | None = None,
) -> list[list[Score]]:
    """Sum the log-probabilities of continuations given their contexts.

    Args:
        model: A decoder-only model for which `proof.shareable` holds.
        requests: Token ids of context and continuation; truncated as lm-eval does.
        configurations: Steering configurations; the empty one is the unsteered model.
        max_length: Tokens that the model takes.
        options: Batch size, type of the log-softmax and progress.
        proof: Checks some of the scores as they come; None trusts the model.

    Returns:
        Per configuration and request, the sum in nats and whether every token was the most likely one.

    Raises:
        GrainsError: an empty or too long request, or a layer that the model lacks.
        sharing.Deviation: from the proof.
    """
    groups, owners = group(requests, max_length)
    longest = max((len(each.context) + max(map(len, each.continuations)) for each in groups), default=1)
    prefix_groups, progress = group_by_prefix(groups), options.progress
    if proof is not None:
        proof.pending += _probes(model, prefix_groups, max_length, options.softmax_dtype)

    def finished(count: int) -> None:
        if proof is not None:
            proof.check(scorer.results)
        if progress is not None:
            progress(count)

    limits = limits_for(model, options.batch_size, longest)
    scorer = Scorer(model, configurations, limits, options.softmax_dtype, finished)
    for each in prefix_groups:
        scorer.run(each)
    repeats = len(owners) - len(set(owners))
    if progress is not None and repeats:
        progress(repeats)
    return [[found[owner] for owner in owners] for found in scorer.results]


def _probes(
    model: PreTrainedModel, prefix_groups: Sequence[PrefixGroup], max_length: int, dtype: torch.dtype | None
) -> list[Probe]:
    """The requests that are scored plainly too."""
    lengths = mentioned_lengths(text_config(model))

    def plainly(each: Candidate, last: int | None) -> float:
        # one token more may be too many, or make the model behave differently
        room = each.fed < max_length and each.fed not in lengths
        return plain_logprob(model, each.context, each.answer, last if room else None, dtype)

    chosen = choose(candidates(prefix_groups, lengths), lengths)
    return [Probe(each.owner, len(each.context), len(each.answer), partial(plainly, each)) for each in chosen]


def check_text_causal(model: PreTrainedModel, requests: Requests, max_length: int) -> None:
    """Refuse a model in which an answer would see itself; tried once per model, on the shortest request.

    Raises:
        GrainsError: another last token changes what comes before it.
    """
    if not requests:
        return
    context, answer = min(requests, key=lambda request: len(request[0]) + len(request[1]))
    answer = answer[: max(1, max_length - 1)]
    context = context[-max(1, max_length - len(answer)) :]
    check_causal(model, lambda last: plain_logprob(model, context, answer, last), len(answer), images=False)


def score_prepared(
    model: PreTrainedModel,
    contexts: Iterable[PreparedContext],
    configurations: Sequence[Configuration],
    options: ScoringOptions = ScoringOptions(),
    *,
    proof: Proof | None = None,
) -> list[list[list[Score]]]:
    """Score continuations of prepared contexts, one context after another; see `score`.

    The proof takes the longest answer of the first context, which should be the longest, and of the first context of
    every other kind: between other mentioned lengths, with another number of images, or the first to run one token
    or several of an answer after a prompt.

    Returns:
        Per configuration, context and continuation, the sum in nats and whether every token was the most
        likely one.
    """
    scorer: Scorer | None = None
    owners: list[range] = []
    lengths, seen = mentioned_lengths(text_config(model)), dict[tuple[int, int, bool, int], int]()
    for context in contexts:
        continuations = tuple(tuple(each) for each in context.continuations)
        width, start = context.inputs["input_ids"].shape[1], owners[-1].stop if owners else 0
        owners.append(range(start, start + len(continuations)))
        if scorer is None:
            limits = limits_for(model, options.batch_size, width + max(map(len, continuations)))
            scorer = Scorer(model, configurations, limits, options.softmax_dtype, options.progress)
        # the tokens themselves are in `inputs`; only their number matters here
        branching = Group((0,) * width, continuations, tuple(owners[-1]), extendable=False)
        if proof is not None and context.plainly is not None:
            index = max(range(len(continuations)), key=lambda one: len(continuations[one]))
            tokens = len(continuations[index])
            fed = width + tokens - 1
            kind = bisect_left(lengths, width), bisect_left(lengths, fed), tokens > 1, context.images
            if fed_kind(tokens) > seen.get(kind, 0):
                seen[kind] = fed_kind(tokens)
                proof.pending.append(Probe(start + index, width, tokens, partial(context.plainly, index)))
        scorer.prepared(branching, context.inputs)
        if proof is not None:
            proof.check(scorer.results)
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
    """Log-likelihood requests through `score`; what it cannot do is left to the harness, under hooks.

    The model that inherits it has `steering_configuration`, the `Configuration` of every forward pass, and
    `steering()`, a context manager that applies it with hooks.

    Attributes:
        share_context: Whether contexts are shared.
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
        # rolling requests have no strings: their windows share nothing
        together = self.share_context and all(request[0] is not None for request in requests)
        found = None
        if together and requests and self.backend == "causal":
            found = self._shared(requests, disable_tqdm)
        if found is None:
            placed = next((each.positions for each in self.steering_configuration if each.positions != "all"), None)
            if placed is not None and self.backend == "causal":
                remedy = "this model or these requests leave only positions=all"
                raise GrainsError(
                    f"positions={placed} cannot be told apart when prompt and answer run together; "
                    + (remedy if self.share_context else "use share_context=true")
                )
            if self.backend == "causal":
                with self._precision():
                    pairs = [(context, answer) for _, context, answer in requests]
                    check_text_causal(self.model, pairs, self.max_length)
            with self.steering():
                return super()._loglikelihood_tokens(requests, disable_tqdm=disable_tqdm, override_bs=override_bs)
        return found

    def _shared(self, requests: Sequence[Request], disable_tqdm: bool) -> list[Score] | None:
        """Scores by shared contexts; None where the model takes the plain path."""
        if self.memo is None:
            scores = self._at_once(requests, [self.steering_configuration], disable_tqdm)
            if scores is None:
                return None
            found = [each[0] for each in scores]
            for (strings, _, _), answer in zip(requests, found, strict=True):
                self.cache_hook.add_partial("loglikelihood", strings, answer)
            return found
        # lm-eval's cache knows no configurations, so a sweep writes nothing to it
        memo = self.memo
        new = [request for request in requests if request[0] not in memo.scores]
        scores = self._at_once(new, memo.configurations, disable_tqdm) if new else []
        if scores is None:
            return None
        memo.scores.update(zip([request[0] for request in new], scores, strict=True))
        return [memo.scores[request[0]][memo.active] for request in requests]

    def _precision(self) -> torch.autocast:
        """The precision that `hf` runs in."""
        precision = self.mixed_precision_dtype
        return torch.autocast(self.device.type, dtype=precision, enabled=precision is not None)

    def _at_once(
        self, requests: Sequence[Request], configurations: Sequence[Configuration], disable_tqdm: bool
    ) -> list[list[Score]] | None:
        """Per request, its score under every configuration; None where the model takes the plain path."""
        if not shareable(self.model):
            return None
        longest = max((len(context) + len(answer) for _, context, answer in requests), default=0)
        if longest > self.max_length + 1:
            logger.warning(
                "requests of up to %d tokens are cut from the left to the %d that the model takes",
                longest,
                self.max_length,
            )
        bar = tqdm(
            total=len(requests),
            disable=disable_tqdm or self.rank != 0 or not requests,
            desc="Running loglikelihood requests, contexts shared",
        )
        with bar, self._precision():
            scores = shared_scores(
                self.model,
                [(context, answer) for _, context, answer in requests],
                configurations,
                max_length=self.max_length,
                options=ScoringOptions(self.batch_size, self.softmax_dtype, bar.update),
            )
        return None if scores is None else [list(each) for each in zip(*scores, strict=True)]
