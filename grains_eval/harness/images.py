"""Log-likelihood of continuations given images, which lm-eval's `hf-multimodal` refuses to compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import transformers
from lm_eval.models.utils import Collator
from torch import Tensor
from tqdm import tqdm

from grains_eval.errors import GrainsError
from grains_eval.harness.image_requests import Answer, ImageRequest, ImageRequestsMixin
from grains_eval.harness.prefix_sharing.proof import check_causal
from grains_eval.models import image_inputs
from grains_eval.models.hooks import forget_positions, logits_from
from grains_eval.models.loading import missing_package


@dataclass(frozen=True)
class Rows:
    """Right-padded rows of contexts with continuations.

    Attributes:
        features: Keywords of the model's forward, `input_ids [B, T]` among them.
        starts: Where each continuation starts.
        ends: Where it ends.
        merged: Whether it changes its context's last token, so that its tokens were only counted.
    """

    features: Mapping[str, Any]
    starts: list[int]
    ends: list[int]
    merged: list[bool]


class ImageLoglikelihoodMixin(ImageRequestsMixin):
    """Adds image log-likelihood to lm-eval's `HFMultimodalLM`; stands before it in the class's bases.

    Images are never cut: where a prompt is too long, an error says so.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if str(kwargs.get("batch_size", "")).startswith("auto"):
            raise GrainsError(
                "batch_size=auto does not work for vision-language models in lm-eval; give a number, e.g. batch_size=4"
            )
        super().__init__(*args, **kwargs)
        # Gemma 3's processor wants another placeholder than the decoded image_token_id
        self.image_token: str = image_inputs.placeholder(self)

    def _create_tokenizer(self, pretrained: Any, tokenizer: Any = None, *args: Any, **kwargs: Any) -> Any:
        try:
            if tokenizer is None:
                return super()._create_tokenizer(pretrained, tokenizer, *args, **kwargs)
            self.processor = (
                tokenizer
                if isinstance(tokenizer, transformers.ProcessorMixin)
                else transformers.AutoProcessor.from_pretrained(tokenizer, **self.pixels)
            )
            self.tokenizer = self.processor.tokenizer
        except ImportError as error:
            raise missing_package(pretrained, error) from error

    def tok_batch_multimodal_encode(
        self,
        strings: list[str],
        images: list[list[Any]],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> Any:
        """As `hf-multimodal`, but a prompt that is too long is an error: cutting it would cut images."""
        encoding = super().tok_batch_multimodal_encode(strings, images, padding_side, None, truncation)
        tokens = encoding["input_ids"].shape[1]
        if left_truncate_len is not None and tokens > left_truncate_len:
            raise GrainsError(
                f"prompt and images have {tokens} tokens but only {left_truncate_len} of max_length="
                f"{self.max_length} are left beside the answer, and images are never cut; "
                "use smaller images, a smaller max_gen_toks or raise max_length"
            )
        return encoding

    def score_images(self, requests: Sequence[ImageRequest], disable_tqdm: bool = False) -> list[Answer]:
        """Log-probability of every continuation and whether it is the greedy one, in batches of `batch_size`.

        Raises:
            GrainsError: a prompt past `max_length`, or a model whose answers would see themselves.
        """
        if requests:
            shortest = min(requests, key=lambda each: (len(each.images), len(each.context) + len(each.continuation)))
            check_causal(
                self.model,
                lambda last: self.score_image(shortest, last)[0],
                self.continuation_length(shortest),
                images=True,
            )
        order = Collator(
            requests,
            sort_fn=lambda request: (-len(request.context) - len(request.continuation), request.context),
        )
        answers: list[Answer] = []
        progress = tqdm(
            total=len(requests),
            disable=disable_tqdm or self.rank != 0,
            desc="Running loglikelihood requests with text+image input",
        )
        for batch in order.get_batched(n=int(self.batch_size)):
            for request, answer in zip(batch, self._score_batch(batch), strict=True):
                answers.append(answer)
                self.cache_hook.add_partial("loglikelihood", request.args, answer)
                progress.update(1)
        progress.close()
        return order.get_original(answers)

    def score_image(self, request: ImageRequest, last: int | None = None) -> Answer:
        """One request in a pass of its own; `last` is fed instead of the answer's last token, which nothing reads."""
        rows = self._rows([request]) or self._appended(request)
        targets: Tensor = rows.features["input_ids"]
        if last is not None:
            changed = targets.clone()
            changed[0, rows.ends[0] - 1] = last
            rows = replace(rows, features={**rows.features, "input_ids": changed})
        else:
            self._check_merged([request], rows)
        return self._read([request], rows, targets)[0]

    def _score_batch(self, batch: Sequence[ImageRequest]) -> list[Answer]:
        """One right-padded pass over context and continuation, with every key that the processor returned."""
        rows = self._rows(batch)
        if rows is None:
            return [self.score_image(request) for request in batch]
        self._check_merged(batch, rows)
        return self._read(batch, rows, rows.features["input_ids"])

    def _check_merged(self, batch: Sequence[ImageRequest], rows: Rows) -> None:
        """Refuse an answer that counts as part of its prompt where attention in prompts is bidirectional.

        Raises:
            GrainsError: the model's earlier tokens see later ones.
        """
        for request, start, end, merged in zip(batch, rows.starts, rows.ends, rows.merged, strict=True):
            if merged:
                score = partial(self.score_image, request)
                tokens = end - start
                check_causal(self.model, lambda last, score=score: score(last)[0], tokens, images=True, again=True)

    def _rows(self, batch: Sequence[ImageRequest]) -> Rows | None:
        """Contexts with continuations, as the processor writes them; None where it writes more after them.

        Raises:
            GrainsError: it writes more after a continuation that is counted, for its context's last token changes.
        """
        texts = [request.context + request.continuation for request in batch]
        features = image_inputs.process(self, texts, [request.images for request in batch], batch[0].where)
        ends: list[int] = features["attention_mask"].sum(dim=1).tolist()
        starts, merged = list[int](), list[bool]()
        for row, (request, end) in enumerate(zip(batch, ends, strict=True)):
            wanted = self._continuation_ids(request)
            if wanted is not None and features["input_ids"][row, end - len(wanted) : end].tolist() != wanted:
                return None
            if wanted is None:
                self.check_countable(request)
            merged.append(wanted is None)
            starts.append(end - (self.continuation_length(request) if wanted is None else len(wanted)))
        return Rows(features, starts, ends, merged)

    def _appended(self, request: ImageRequest) -> Rows:
        """One context as the processor writes it, line end and all (PaliGemma), and the continuation's ids after it."""
        context = image_inputs.process(self, [request.context], [request.images], request.where)
        start = context["input_ids"].shape[1]
        ids = self._continuation_ids(request) or []
        return Rows(image_inputs.lengthened(self.model, context, ids), [start], [start + len(ids)], [False])

    @torch.no_grad()
    def _read(self, batch: Sequence[ImageRequest], rows: Rows, targets: Tensor) -> list[Answer]:
        """Run the rows and read off what the targets `[B, T]` have at the continuations."""
        for request, length in zip(batch, rows.ends, strict=True):
            if length > self.max_length:
                raise GrainsError(
                    f"{request.where}: prompt, images and continuation have {length} tokens but max_length "
                    f"is {self.max_length} and images are never cut; use smaller images or raise max_length"
                )
        first = min(rows.starts) - 1
        forget_positions(self.model)
        precision = self.mixed_precision_dtype
        with (
            logits_from(self.model, first),
            torch.autocast(self.device.type, dtype=precision, enabled=precision is not None),
        ):
            logits: Tensor = self.model(**rows.features, use_cache=False).logits
        answers: list[Answer] = []
        for row, (start, end) in enumerate(zip(rows.starts, rows.ends, strict=True)):
            logprobs = logits[row, start - 1 - first : end - 1 - first].float().log_softmax(dim=-1)
            wanted = targets[row, start:end].to(logprobs.device)
            score = logprobs.gather(-1, wanted[:, None]).sum()
            answers.append((float(score), bool((logprobs.argmax(dim=-1) == wanted).all())))
        return answers
