"""Context-aware contrastive decoding in the harness (Shi et al. 2023, arXiv 2305.14739, equation 2).

Every prompt whose task declares a context `c` runs twice, with it and without it (`x`), and tokens come from the
softmax of `(1 + alpha) logit(y | c, x) - alpha logit(y | x)`. Log-probabilities do in place of logits: they differ from
them by a constant for each pass, which the softmax takes away.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.api.instance import Instance
from torch import Tensor
from tqdm import tqdm
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel

from grains_eval.errors import GrainsError
from grains_eval.examples.contexts import context_of, without_context
from grains_eval.harness.image_requests import shows_images
from grains_eval.harness.insertion import into_batch
from grains_eval.harness.prefix_sharing.loglikelihood import check_text_causal
from grains_eval.harness.prefix_sharing.plan import truncate
from grains_eval.harness.prefix_sharing.targets import Score
from grains_eval.models.hooks import logits_at
from grains_eval.models.loading import HarnessModel
from grains_eval.types import Contrast

if TYPE_CHECKING:
    _Base = Any
else:
    _Base = object

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pair:
    """A continuation after two prompts.

    Attributes:
        full: Token ids of the prompt.
        bare: Those of the prompt without its context; the same where it has none.
        answer: Those of the continuation.
    """

    full: tuple[int, ...]
    bare: tuple[int, ...]
    answer: tuple[int, ...]


def contrasted(scores: Tensor, bare: Tensor, alpha: float) -> Tensor:
    """`log softmax((1 + alpha) scores - alpha bare)` over the last axis, of logits or log-probabilities alike.

    A token that is masked in `scores`, at -inf, stays masked whatever `bare` says.

    Raises:
        GrainsError: another score that is not finite.
    """
    masked = scores == -torch.inf
    mixed = scores if alpha == 0 else ((1 + alpha) * scores - alpha * bare).masked_fill(masked, -torch.inf)
    found = mixed.log_softmax(dim=-1)
    if not torch.where(masked, found == -torch.inf, found.isfinite()).all():
        raise GrainsError(
            f"a contrast of alpha {alpha:g} gave scores that are not finite: the model's scores with or without the "
            "context overflow or are NaN; use dtype=float32 or leave the contrast out"
        )
    return found


def without_least(logits: Tensor, dtype: torch.dtype) -> Tensor:
    """Logits with -inf for the least number of their `dtype`, with which models mask tokens too."""
    return logits.masked_fill(logits <= torch.finfo(dtype).min, -torch.inf)


def encode_pair(lm: HarnessModel, prompt: str, bare: str, continuation: str) -> Pair:
    """Tokens as lm-eval encodes a prompt with its continuation; an empty prompt is the prefix token.

    Raises:
        GrainsError: a continuation without tokens, or one that is longer than the model takes.
    """

    def context_ids(text: str) -> tuple[list[int], list[int]]:
        if not text:
            return [lm.prefix_token_id], lm.tok_encode(continuation, add_special_tokens=False)
        return lm._encode_pair(text, continuation)

    full, answer = context_ids(prompt)
    truncate(full, answer, lm.max_length)
    return Pair(tuple(full), tuple(context_ids(bare)[0]), tuple(answer))


@torch.no_grad()
def score_contrasted(
    lm: HarnessModel, pairs: Sequence[Pair], alphas: Sequence[float], disable_tqdm: bool = False
) -> list[list[Score]]:
    """Sum the contrasted log-probabilities of continuations; two passes give them for every alpha.

    Args:
        lm: A `grains_hf` model, steered as it is to be.
        pairs: Continuations after their prompts.
        alphas: Weights of the contrast.
        disable_tqdm: Show no progress.

    Returns:
        Per alpha and pair, the sum in nats and whether every token was the most likely one.

    Raises:
        GrainsError: as `truncate`, or scores that are not finite.
    """
    pairs = _truncated(pairs, lm.max_length)
    found = [[(0.0, True)] * len(pairs) for _ in alphas]
    # continuations of one prompt that differ in their last token alone are read off one row
    alike: dict[tuple[Any, ...], list[int]] = {}
    for index, pair in enumerate(pairs):
        alike.setdefault((pair.full, pair.bare, pair.answer[:-1]), []).append(index)
    rows = sorted(alike, key=lambda row: -len(row[0]) - len(row[2]))
    size = lm.batch_size if isinstance(lm.batch_size, int) else lm._detect_batch_size()
    bar = tqdm(total=len(pairs), disable=disable_tqdm or lm.rank != 0, desc="Running requests with and without context")
    with bar:
        for start in range(0, len(rows), max(1, size)):
            some = rows[start : start + max(1, size)]
            full, bare = (_read(lm, [(row[side], row[2]) for row in some]) for side in (0, 1))
            for row, with_context, without in zip(some, full, bare, strict=True):
                for column, alpha in enumerate(alphas):
                    mixed = contrasted(with_context, without, alpha)
                    best = mixed.argmax(dim=-1)
                    for index in alike[row]:
                        tokens = torch.tensor(pairs[index].answer, device=mixed.device)
                        total = float(mixed.gather(1, tokens[:, None]).sum())
                        found[column][index] = total, bool((best == tokens).all())
                bar.update(len(alike[row]))
    return found


def _truncated(pairs: Sequence[Pair], max_length: int) -> list[Pair]:
    """Pairs as lm-eval cuts them from the left; says how many prompts lost some of their context by it."""
    found = [
        Pair(truncate(p.full, p.answer, max_length), truncate(p.bare, p.answer, max_length), p.answer) for p in pairs
    ]
    cut = {p.full for p, kept in zip(pairs, found, strict=True) if loses_context(p.full, p.bare, len(kept.full))}
    warn_of_cuts(len(cut), len({pair.full for pair in pairs}), max_length)
    return found


def loses_context(full: Sequence[int], bare: Sequence[int], kept: int) -> bool:
    """Whether the last `kept` tokens of a prompt lack some of the context, which starts where `bare` departs."""
    alike = next((k for k, ids in enumerate(zip(full, bare, strict=False)) if ids[0] != ids[1]), len(bare))
    return full != bare and len(full) - kept > alike


def warn_of_cuts(count: int, total: int, max_length: int) -> None:
    """Say that prompts were contrasted without all of their context, where any were."""
    if count:
        logger.warning(
            "%d of %d prompts lost some or all of their context: with their answers they are longer than the %d "
            "tokens that the model takes; the contrast acts on what is left",
            count,
            total,
            max_length,
        )


def _read(lm: HarnessModel, rows: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> list[Tensor]:
    """Per row of a prompt and all but the last token of an answer, `[n, V]` log-probabilities of its `n` tokens."""
    tokens = [[*prompt, *answer] for prompt, answer in rows]
    width = max(map(len, tokens))
    padded = torch.tensor([[*row, *[0] * (width - len(row))] for row in tokens], device=lm.device)
    counts = [len(answer) + 1 for _, answer in rows]
    places = [
        (row, len(ids) - n + k) for row, (ids, n) in enumerate(zip(tokens, counts, strict=True)) for k in range(n)
    ]
    row, column = (torch.tensor(axis) for axis in zip(*places, strict=True))
    with logits_at(lm.model, lambda hidden: hidden[row.to(hidden.device), column.to(hidden.device)][None]):
        logits: Tensor = lm._model_call(padded)
    logits = without_least(logits, logits.dtype)
    return list(logits[0].log_softmax(dim=-1, dtype=lm.softmax_dtype or torch.float32).split(counts))


class WithoutContext(LogitsProcessor):
    """Contrasts the scores of `generate` with those of the prompts without their contexts, which it runs alongside.

    As `UnbatchedClassifierFreeGuidanceLogitsProcessor` of transformers at a scale of `1 + alpha`, and right for padded
    batches on models of learned positions too.

    Args:
        model: The model that generates.
        ids: `[B, T]` prompts without their contexts, padded on the left.
        mask: `[B, T]` their attention mask.
        alpha: Weight of the contrast.
    """

    def __init__(self, model: PreTrainedModel, ids: Tensor, mask: Tensor, alpha: float) -> None:
        self._model: Any = model
        self._alpha = alpha
        self._ids, self._mask = ids, mask
        self._cache: Any = None
        self._begun = False
        wrapped: Any = model
        base: Any = wrapped.get_base_model() if hasattr(model, "get_base_model") else model  # of an adapter
        self._takes_positions = "position_ids" in inspect.signature(base.forward).parameters

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """`[B, V]` contrasted log-probabilities from the scores `[B, V]` of the prompts with their contexts."""
        if self._begun:
            self._ids = torch.cat([self._ids, input_ids[:, -1:]], dim=1)
            self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], dim=1)
        self._begun = True
        new = 1 if self._cache is not None else self._ids.shape[1]
        keywords: dict[str, Any] = {}
        if self._takes_positions:
            keywords["position_ids"] = (self._mask.cumsum(-1) - 1).clamp_min(0)[:, -new:]
        output = self._model(
            input_ids=self._ids[:, -new:],
            attention_mask=self._mask,
            past_key_values=self._cache,
            use_cache=True,
            **keywords,
        )
        self._cache = getattr(output, "past_key_values", None)  # None: the whole prompt runs again
        kind = output.logits.dtype  # `generate` has turned those with contexts into float32
        pair = without_least(scores, kind), without_least(output.logits[:, -1], kind).to(scores)
        full, bare = (each.log_softmax(dim=-1) for each in pair)
        return contrasted(full, bare, self._alpha)


def rounds(prompts: Mapping[int, tuple[str, str]]) -> list[list[int]]:
    """Indices of prompts with and without their contexts; in each round, one prompt has one form without."""
    found: list[dict[str, str]] = []
    members: list[list[int]] = []
    for index, (full, bare) in prompts.items():
        place = next((k for k, known in enumerate(found) if known.get(full, bare) == bare), len(found))
        if place == len(found):
            found.append({})
            members.append([])
        found[place][full] = bare
        members[place].append(index)
    return members


class ContrastMixin(_Base):
    """Applies `contrast` to requests of tasks that declare a context; stands before an lm-eval model in the bases."""

    _bare: Mapping[str, str] = {}
    _batch: tuple[Sequence[str], tuple[Any, ...], dict[str, Any]] = ((), (), {})
    _cut: int = 0

    @property
    def contrast(self) -> Contrast | None:
        """What amplifies contexts; None leaves every request untouched."""
        return None

    def prompts_without_context(self, requests: Sequence[Instance], contexts: Mapping[str, str]) -> dict[int, str]:
        """By index of the request, its prompt without its context, where it has one.

        Raises:
            GrainsError: a context that is not in its prompt or one among images, or answers that a cache would mix up.
        """
        found: dict[int, str] = {}
        plain: set[str] = set()
        for index, request in enumerate(requests):
            name = str(request.task_name).rpartition("::")[2]  # lm_eval 0.5 puts the group before it
            if name not in contexts:
                plain.add(name)
                continue
            context = context_of(contexts[name], request.doc)
            if context is None or not request.args[0]:  # `acc_mutual_info` scores choices after nothing
                continue
            if shows_images(request):
                raise GrainsError(f"task {name}: prompts with images are not run without their context; leave it out")
            found[index] = without_context(request.args[0], context, f"task {name}, document {request.doc_id}")
        self._check_cached_prompts(requests, found)
        if plain:
            logger.info("no context is declared for %s: scored as without a contrast", ", ".join(sorted(plain)))
        return found

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Score]:
        """Score continuations under the contrast; see `hf`."""
        contrast = self.contrast
        bare = {} if contrast is None else self.prompts_without_context(requests, contrast.contexts)
        if contrast is None or not bare:
            return super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        rest = [index for index in range(len(requests)) if index not in bare]
        answers: dict[int, Score] = {}
        if rest:
            plain = super().loglikelihood([requests[index] for index in rest], disable_tqdm=disable_tqdm)
            answers.update(zip(rest, plain, strict=True))
        asked: dict[int, tuple[Any, ...]] = {index: requests[index].args for index in bare}
        pairs = [encode_pair(self, asked[index][0], text, asked[index][1]) for index, text in bare.items()]
        self._check_contrast()
        check_text_causal(self.model, [(pair.full, pair.answer) for pair in pairs], self.max_length)
        inserted = self.insertion
        if inserted is not None:
            pairs = [Pair(tuple(inserted.into(p.full)), tuple(inserted.into(p.bare)), p.answer) for p in pairs]
        with self.steering():
            if inserted is None:
                scores = score_contrasted(self, pairs, [contrast.alpha], disable_tqdm)[0]
            else:
                with inserted.known_to(self.model):
                    scores = score_contrasted(self, pairs, [contrast.alpha], disable_tqdm)[0]
        for index, score in zip(bare, scores, strict=True):
            self.cache_hook.add_partial("loglikelihood", requests[index].args, score)
        answers.update(zip(bare, scores, strict=True))
        return [answers[index] for index in range(len(requests))]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """As `hf`: a text that is scored from its first token has no context."""
        if self.contrast is not None and requests:
            logger.warning("rolling log-likelihoods have no context: the contrast does not act on them")
        return super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Generate under the contrast; see `hf`."""
        contrast = self.contrast
        bare = {} if contrast is None else self.prompts_without_context(requests, contrast.contexts)
        if not bare:
            return super().generate_until(requests, disable_tqdm=disable_tqdm)
        self._check_contrast()
        if getattr(self, "processor", None) is not None:
            raise GrainsError("a contrast of two prompts generates with text models; leave out generation tasks")
        rest = [index for index in range(len(requests)) if index not in bare]
        answers: dict[int, str] = {}
        if rest:
            plain = super().generate_until([requests[index] for index in rest], disable_tqdm=disable_tqdm)
            answers.update(zip(rest, plain, strict=True))
        self._cut = 0
        for part in rounds({index: (requests[index].args[0], text) for index, text in bare.items()}):
            self._bare = {requests[index].args[0]: bare[index] for index in part}
            try:
                found = super().generate_until([requests[index] for index in part], disable_tqdm=disable_tqdm)
            finally:
                self._bare = {}
            answers.update(zip(part, found, strict=True))
        warn_of_cuts(self._cut, len(bare), self.max_length)
        return [answers[index] for index in range(len(requests))]

    def tok_batch_encode(self, strings: Sequence[str], *arguments: Any, **keywords: Any) -> tuple[Tensor, Tensor]:
        """As `hf`; what is encoded is what `_model_generate` continues next."""
        found = super().tok_batch_encode(strings, *arguments, **keywords)
        if self._bare:
            self._batch = strings, arguments, keywords
            kept = keywords.get("left_truncate_len")
            if kept and found[0].shape[1] >= kept:
                for text in strings:
                    self._cut += loses_context(self.tok_encode(text), self.tok_encode(self._bare[text]), kept)
        return found

    def _model_generate(self, context: Any, max_length: int, *arguments: Any, **keywords: Any) -> Any:
        contrast = self.contrast
        if not self._bare or contrast is None:
            return super()._model_generate(context, max_length, *arguments, **keywords)
        if keywords.get("num_beams", 1) > 1 or keywords.get("num_return_sequences", 1) > 1:
            raise GrainsError("a contrast of two prompts decodes one sequence a prompt; drop num_beams")
        strings, given, named = self._batch
        start = self.tok_decode([self.prefix_token_id], skip_special_tokens=False)  # where nothing else is left
        ids, mask = super().tok_batch_encode([self._bare[text] or start for text in strings], *given, **named)
        ids, mask = ids.to(self.device), mask.to(self.device)
        if self.insertion is not None:
            ids, mask, _ = into_batch(self.insertion, ids, mask)
        processors = LogitsProcessorList([WithoutContext(self.model, ids, mask, contrast.alpha)])
        return super()._model_generate(context, max_length, *arguments, logits_processor=processors, **keywords)

    def _check_cached_prompts(self, requests: Sequence[Instance], bare: Mapping[int, str]) -> None:
        """Refuse prompts that a cache, which knows the prompt alone, would give each other's answers."""
        if self.cache_hook.dbdict is None:
            return
        known: dict[str, str | None] = {}
        for index, request in enumerate(requests):
            form = bare.get(index)
            if known.setdefault(request.args[0], form) != form:
                raise GrainsError(
                    f"task {request.task_name}, document {request.doc_id}: its prompt is also asked with another "
                    "context or none, and a cache would give both one answer; drop --use_cache"
                )

    def _check_contrast(self) -> None:
        """Refuse what two passes cannot be run for."""
        if self.backend != "causal":
            raise GrainsError(f"{type(self.model).__name__} has an encoder; a contrast needs a decoder that reads all")
        placed = next((each.positions for each in self.steering_configuration if each.positions != "all"), None)
        if placed is not None:
            raise GrainsError(
                f"positions={placed} cannot be followed through a contrast's two passes; use positions=all"
            )
