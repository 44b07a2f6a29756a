"""Requests with images: their placeholders, images and continuations, before any engine sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lm_eval.api.instance import Instance
from lm_eval.models.hf_vlms import DEFAULT_IMAGE_PLACEHOLDER
from PIL import Image

from grains_eval.errors import GrainsError
from grains_eval.examples.documents import has_image
from grains_eval.lm_eval_versions import cached_without_images, multimodal_arguments
from grains_eval.models import image_inputs

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


def named(request: Instance) -> str:
    """How errors name a request."""
    return f"document {request.doc_id} of task {request.task_name}"


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


def split_by_images(requests: Sequence[Instance]) -> tuple[list[int], list[int]]:
    """Indices of the requests with images and of those without."""
    seeing = [index for index, request in enumerate(requests) if images_of(request)]
    reading = [index for index, request in enumerate(requests) if not images_of(request)]
    return seeing, reading


class ImageRequestsMixin(_Base):
    """Splits requests by whether they show images and checks those that do; `score_images` scores them.

    Requests with and without images may come mixed, as they do when tasks of both kinds run together.
    """

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Answer]:
        """Score continuations; requests without images are left to the class for text.

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
        """Generate; requests without images are left to the class for text."""
        seeing, reading = split_by_images(requests)
        self._check_cache(requests)
        answers = dict[int, str]()
        if reading:
            plain = [self._without_placeholder(requests[index]) for index in reading]
            answers.update(zip(reading, super().generate_until(plain, disable_tqdm=disable_tqdm), strict=True))
        if seeing:
            shown = [self._checked(requests[index]) for index in seeing]
            answers.update(zip(seeing, self.generate_from_images(shown, disable_tqdm), strict=True))
        return [answers[index] for index in range(len(requests))]

    def generate_from_images(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Generate where every request shows images; here as `hf-multimodal` does."""
        return super().generate_until(requests, disable_tqdm=disable_tqdm)

    def prepare_image_request(self, request: Instance) -> ImageRequest:
        """Check one request's images and put their placeholders into its context.

        Raises:
            GrainsError: a missing or damaged image, more images than `max_images`, placeholders that do
                not match the images, or an empty continuation.
        """
        arguments: Any = request.args
        context, continuation = arguments[0], arguments[1]
        where = named(request)
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
        where = named(request)
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
                    f"{named(request)}: this lm_eval caches answers by the text "
                    "alone, images left out; run without --use_cache"
                )

    def _checked(self, request: Instance) -> Instance:
        """A generation request with decoded images and as many placeholders, in front where it has none.

        `hf-multimodal` keeps the first `max_images` images; that is left to it.
        """
        where = named(request)
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

    def check_countable(self, request: ImageRequest) -> None:
        """Refuse a continuation that changes its prompt's last token where more is written after the text.

        Raises:
            GrainsError: its own tokens cannot be told.
        """
        if image_inputs.closes_prompts(self, request.context, request.images, request.where):
            raise GrainsError(
                f"{request.where}: the continuation changes the prompt's last token and "
                f"{type(self.processor).__name__} writes more after its text, so the continuation's own tokens "
                "cannot be told; let the continuation begin with a space or a line break"
            )

    def _continuation_ids(self, request: ImageRequest) -> list[int] | None:
        return image_inputs.continuation_ids(self, request.context, request.continuation, request.images, request.where)
