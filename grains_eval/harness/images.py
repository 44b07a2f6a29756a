"""Log-likelihood of continuations given images, which lm-eval's `hf-multimodal` refuses to compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import transformers
from lm_eval.api.instance import Instance
from lm_eval.models.hf_vlms import DEFAULT_IMAGE_PLACEHOLDER
from lm_eval.models.utils import Collator
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from grains_eval.errors import GrainsError
from grains_eval.examples.documents import has_image
from grains_eval.harness.prefix_sharing.proof import check_causal
from grains_eval.lm_eval_versions import cached_without_images, multimodal_arguments
from grains_eval.models import image_inputs
from grains_eval.models.hooks import forget_positions, logits_from
from grains_eval.models.loading import missing_package

if TYPE_CHECKING:
    _Base = Any
else:
    _Base = object

Answer = tuple[float, bool]


@dataclass(frozen=True)
class ImageRequest:
    """A log-likelihood request with images, ready for the processor.

    Attributes:
        args: As lm-eval made it, the key of its request cache.
        context: The prompt with the model's own placeholders, no trailing spaces.
        continuation: What is scored, with the context's trailing spaces.
        images: Decoded images in the order of their placeholders.
        where: Names the request in errors.
    """

    args: tuple[Any, ...]
    context: str
    continuation: str
    images: tuple[Image.Image, ...]
    where: str


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


def images_of(request: Instance) -> list[Any]:
    """The images of a request, in order; empty for text requests."""
    found = multimodal_arguments(request).get("visual")
    if found is None:
        return []
    return list(found) if isinstance(found, list | tuple) else [found]


def shows_images(request: Instance) -> bool:
    """Whether a request has images, or asks for those of its document, which lm_eval 0.5.0.dev1 may leave out."""
    context = request.args[0]
    asks = isinstance(context, str) and DEFAULT_IMAGE_PLACEHOLDER in context
    return bool(images_of(request)) or (asks and has_image(request.doc))


def as_text(request: Instance) -> Instance:
    """The same request without its third argument, as text-only code expects it."""
    return replace(request, arguments=request.args[:2]) if len(request.args) > 2 else request


class ImageLoglikelihoodMixin(_Base):
    """Adds image log-likelihood to lm-eval's `HFMultimodalLM`; stands before it in the class's bases.

    Requests with and without images may come mixed, as they do when tasks of both kinds run together.
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

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Answer]:
        """Score continuations; requests without images are left to `hf`.

        Raises:
            GrainsError: images or placeholders that do not fit, or a prompt past `max_length`.
        """
        seeing, reading = split_by_images(requests)
        self._check_cache(requests)
        answers = dict[int, Answer]()
        if reading:
            plain = [self._without_placeholder(requests[index]) for index in reading]
            answers.update(zip(reading, super().loglikelihood(plain, disable_tqdm=disable_tqdm), strict=True))
        if seeing:
            prepared = [self.prepare_image_request(requests[index]) for index in seeing]
            answers.update(zip(seeing, self.score_images(prepared, disable_tqdm), strict=True))
        return [answers[index] for index in range(len(requests))]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Generate; requests without images are left to `hf`, others to `hf-multimodal`."""
        seeing, reading = split_by_images(requests)
        self._check_cache(requests)
        answers = dict[int, str]()
        for indices, prepared in (
            (reading, [self._without_placeholder(requests[index]) for index in reading]),
            (seeing, [self._checked(requests[index]) for index in seeing]),
        ):
            if indices:
                made = super().generate_until(prepared, disable_tqdm=disable_tqdm)
                answers.update(zip(indices, made, strict=True))
        return [answers[index] for index in range(len(requests))]

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

    def prepare_image_request(self, request: Instance) -> ImageRequest:
        """Check one request's images and put their placeholders into its context.

        Raises:
            GrainsError: a missing or damaged image, more images than `max_images`, placeholders that do
                not match the images, or an empty continuation.
        """
        arguments: Any = request.args
        context, continuation = arguments[0], arguments[1]
        where = f"document {request.doc_id} of task {request.task_name}"
        images = image_inputs.check_images(self, images_of(request), where)
        placed = image_inputs.place_images(self, context, len(images), where, in_front=not self.chat_applied)
        context, continuation = image_inputs.strip_context(placed, continuation)
        if not continuation:
            raise GrainsError(f"{where}: the continuation is empty")
        return ImageRequest(request.args, context, continuation, tuple(images), where)

    def _without_placeholder(self, request: Instance) -> Instance:
        """A request without images, as text; one whose document asks for them is refused.

        lm_eval 0.5.0.dev1 drops the images of multiple-choice tasks: without this, text alone would be scored.
        """
        context: str = request.args[0] if isinstance(request.args[0], str) else ""
        where = f"document {request.doc_id} of task {request.task_name}"
        image_inputs.place_images(self, context, 0, where, in_front=False)
        return as_text(request)

    def _check_cache(self, requests: Sequence[Instance]) -> None:
        """Refuse a request cache that would answer about one image with what another one gave.

        Raises:
            GrainsError: images that lm_eval 0.5 leaves out of the cache's key.
        """
        if self.cache_hook.dbdict is None:
            return
        for request in requests:
            if cached_without_images(request):
                raise GrainsError(
                    f"document {request.doc_id} of task {request.task_name}: this lm_eval caches answers by the text "
                    "alone, images left out; run without --use_cache"
                )

    def _checked(self, request: Instance) -> Instance:
        """A generation request with decoded images and as many placeholders, in front where it has none.

        `hf-multimodal` keeps the first `max_images` images; that is left to it.
        """
        where = f"document {request.doc_id} of task {request.task_name}"
        given = images_of(request)
        kept = image_inputs.check_images(self, given[: self.max_images], where, resize=False)
        arguments: Any = request.args
        context: str = arguments[0]
        templated: bool = self.chat_applied
        count = len(kept) if templated else len(given)
        placed = image_inputs.place_images(self, context, count, where, in_front=not templated)
        context = placed if count == len(kept) else context
        beside = {**multimodal_arguments(request), "visual": kept}
        return replace(request, arguments=(context, arguments[1], beside))

    def continuation_length(self, request: ImageRequest) -> int:
        """Tokens of the whole past the context's own, lm-eval's rule for where a continuation starts."""
        ids = self._continuation_ids(request)
        if ids is not None:
            return len(ids)
        # the continuation changes the context's last token: count with the processor, as one at a time would
        context = image_inputs.process(self, [request.context], [request.images], request.where)
        whole = image_inputs.process(self, [request.context + request.continuation], [request.images], request.where)
        return max(1, whole["input_ids"].shape[1] - context["input_ids"].shape[1])

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
            if wanted is None and image_inputs.closes_prompts(self, request.context, request.images, request.where):
                raise GrainsError(
                    f"{request.where}: the continuation changes the prompt's last token and "
                    f"{type(self.processor).__name__} writes more after its text, so the continuation's own tokens "
                    "cannot be told; let the continuation begin with a space or a line break"
                )
            merged.append(wanted is None)
            starts.append(end - (self.continuation_length(request) if wanted is None else len(wanted)))
        return Rows(features, starts, ends, merged)

    def _appended(self, request: ImageRequest) -> Rows:
        """One context as the processor writes it, line end and all (PaliGemma), and the continuation's ids after it."""
        context = image_inputs.process(self, [request.context], [request.images], request.where)
        start = context["input_ids"].shape[1]
        ids = self._continuation_ids(request) or []
        return Rows(image_inputs.lengthened(self.model, context, ids), [start], [start + len(ids)], [False])

    def _continuation_ids(self, request: ImageRequest) -> list[int] | None:
        return image_inputs.continuation_ids(self, request.context, request.continuation, request.images, request.where)

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


def split_by_images(requests: Sequence[Instance]) -> tuple[list[int], list[int]]:
    """Indices of the requests with images and of those without."""
    seeing = [index for index, request in enumerate(requests) if images_of(request)]
    reading = [index for index, request in enumerate(requests) if not images_of(request)]
    return seeing, reading
