"""Shared contexts for log-likelihood with images: one vision pass and one prompt pass per context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from grains_eval.errors import GrainsError
from grains_eval.examples.documents import image_hash
from grains_eval.harness.prefix_sharing.configurations import Configuration
from grains_eval.harness.prefix_sharing.loglikelihood import Memo, PreparedContext, ScoringOptions, score_prepared
from grains_eval.harness.prefix_sharing.proof import Proof, attempt, shareable
from grains_eval.harness.prefix_sharing.targets import Score
from grains_eval.models import image_inputs
from grains_eval.steering import applied

if TYPE_CHECKING:
    from grains_eval.harness.image_requests import ImageRequest
    from grains_eval.harness.images import Rows

    _Base = Any
else:
    _Base = object


@dataclass(frozen=True)
class _Asked:
    """A request with the identity of its context and the token ids of its continuation."""

    request: ImageRequest
    context: tuple[Any, ...]
    continuation: tuple[int, ...] | None

    @property
    def key(self) -> tuple[Any, ...]:
        return (self.context, self.continuation)


class SharedImagesMixin(_Base):
    """Stands between `SharedContextMixin` and `ImageLoglikelihoodMixin` in a model's bases.

    Attributes:
        hooked: What steers the plain passes that are running.
    """

    share_context: bool
    memo: Memo | None
    hooked: Configuration = ()

    def score_images(self, requests: Sequence[ImageRequest], disable_tqdm: bool = False) -> list[Score]:
        """Score requests with images under the model's steering.

        Raises:
            GrainsError: a prompt that the processor refuses, or one past `max_length`.
        """
        found = self._shared_images(requests, disable_tqdm) if self.share_context else None
        return self._plain_images(requests, disable_tqdm) if found is None else found

    def _plain_images(self, requests: Sequence[ImageRequest], disable_tqdm: bool) -> list[Score]:
        self.hooked = self.steering_configuration
        try:
            return super().score_images(requests, disable_tqdm)
        finally:
            self.hooked = ()

    def _read(self, batch: Sequence[ImageRequest], rows: Rows, targets: torch.Tensor) -> list[Score]:
        """As without steering; position rules are told where each prompt ends."""
        with ExitStack() as steered:
            for each in self.hooked:
                steered.enter_context(applied(self.model, each, torch.tensor(rows.starts)))
            return super()._read(batch, rows, targets)

    def _shared_images(self, requests: Sequence[ImageRequest], disable_tqdm: bool) -> list[Score] | None:
        """Scores by shared contexts; None where the model takes the plain path."""
        if not shareable(self.model):
            return None
        asked = [self._asked(request) for request in requests]
        # a continuation that changes its context's last token has no context to share
        alone = [index for index, each in enumerate(asked) if each.continuation is None]
        found: dict[int, Score] = {}
        if alone:
            scored = self._plain_images([requests[index] for index in alone], disable_tqdm)
            found.update(zip(alone, scored, strict=True))
        memo = self.memo if self.memo is not None else Memo([self.steering_configuration])
        with attempt(self.model):
            self._remember([each for each in asked if each.continuation is not None], memo, disable_tqdm)
        if not shareable(self.model):
            return None
        for index, each in enumerate(asked):
            if index not in found:
                found[index] = memo.scores[each.key][memo.active]
                if self.memo is None:
                    self.cache_hook.add_partial("loglikelihood", requests[index].args, found[index])
        return [found[index] for index in range(len(requests))]

    def _asked(self, request: ImageRequest) -> _Asked:
        ids = image_inputs.continuation_ids(self, request.context, request.continuation, request.images, request.where)
        shown = tuple(image_hash(image) for image in request.images)
        return _Asked(request, (request.context, shown), None if ids is None else tuple(ids))

    def _remember(self, asked: Sequence[_Asked], memo: Memo, disable_tqdm: bool) -> None:
        """Score what the memo does not know yet, for all its configurations."""
        groups: dict[tuple[Any, ...], dict[tuple[int, ...], ImageRequest]] = {}
        for each in asked:
            if each.key not in memo.scores and each.continuation is not None:
                groups.setdefault(each.context, {})[each.continuation] = each.request

        # the longest first: it is proved before the others are scored
        groups = dict(sorted(groups.items(), key=lambda item: _size(next(iter(item[1].values()))), reverse=True))

        def contexts() -> Iterator[PreparedContext]:
            for group in groups.values():
                first = next(iter(group.values()))
                inputs = image_inputs.process(self, [first.context], [first.images], first.where)
                self._check_length(inputs["input_ids"].shape[1], group)
                yield PreparedContext(inputs, list(group), partial(plainly, list(group.values())), len(first.images))

        def plainly(group: list[ImageRequest], index: int, last: int | None) -> float:
            return self.score_image(group[index], last)[0]

        bar = tqdm(
            total=sum(map(len, groups.values())),
            disable=disable_tqdm or self.rank != 0 or not groups,
            desc="Running loglikelihood requests with text+image input, contexts shared",
        )
        precision = self.mixed_precision_dtype
        with bar, torch.autocast(self.device.type, dtype=precision, enabled=precision is not None):
            scores = score_prepared(
                self.model,
                contexts(),
                memo.configurations,
                ScoringOptions(self.batch_size, torch.float32, bar.update),
                proof=Proof(self.model, memo.configurations),
            )
        for index, (context, group) in enumerate(groups.items()):
            for place, continuation in enumerate(group):
                memo.scores[context, continuation] = [each[index][place] for each in scores]

    def _check_length(self, width: int, group: dict[tuple[int, ...], ImageRequest]) -> None:
        for continuation, request in group.items():
            tokens = width + len(continuation)
            if tokens > self.max_length:
                raise GrainsError(
                    f"{request.where}: prompt, images and continuation have {tokens} tokens but max_length is "
                    f"{self.max_length} and images are never cut; use smaller ones or raise it"
                )


def _size(request: ImageRequest) -> tuple[int, int]:
    """Images, then letters: the order of lengths, near enough."""
    return len(request.images), len(request.context)
