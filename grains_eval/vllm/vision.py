"""`grains_vllm` for vision-language models: log-likelihoods and answers of prompts with images, steered like text.

An image is sent as its placeholder; the engine replaces that by as many tokens as the image takes.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import transformers
from lm_eval.api.instance import Instance
from lm_eval.models.hf_vlms import DEFAULT_IMAGE_PLACEHOLDER, HFMultimodalLM
from lm_eval.models.utils import postprocess_generated_text, replace_placeholders
from PIL import Image

from grains_eval.errors import GrainsError, first_line
from grains_eval.examples.documents import image_hash
from grains_eval.harness.image_requests import Answer, ImageRequest, ImageRequestsMixin, as_text, images_of, named
from grains_eval.models import image_inputs
from grains_eval.models.loading import missing_package
from grains_eval.vllm.batches import Batch, keys_of
from grains_eval.vllm.checks import check_one_engine
from grains_eval.vllm.library import NAME, harness_class, reads_images_causally, refusals, sampling_parameters
from grains_eval.vllm.model import GrainsVLLM

if TYPE_CHECKING:
    _VLLM = Any
else:
    _VLLM = harness_class()

_ALL_IMAGES = 999  # lm-eval's own default
_IMAGE_TOKENS = 1024  # about; says only how many requests are answered at a time


class _ImageChats(_VLLM):
    """Chats with images, which processors render."""

    def apply_chat_template(self, chat_history: list[dict[str, Any]], add_generation_prompt: bool = True) -> str:
        """As `hf-multimodal` and `vllm-vlm`."""
        render: Any = HFMultimodalLM.apply_chat_template
        return render(self, chat_history, add_generation_prompt)


class GrainsVLLMVision(ImageRequestsMixin, GrainsVLLM, _ImageChats):
    """A vLLM engine of a vision-language model.

    Args:
        pretrained: As for `vllm`.
        interleave: Whether images stand where a chat has them, or all in front.
        max_images: Images of one prompt.
        image_width: Width to which images are resized, pixels; so is the height, and the longer side.
        image_height: See `image_width`.
        image_max_side: See `image_width`; not together with them.
        **kwargs: As for `GrainsVLLM`.

    Raises:
        GrainsError: as for `GrainsVLLM`.
    """

    _own: ClassVar[frozenset[str]] = frozenset(
        {"interleave", "max_images", "image_width", "image_height", "image_max_side"}
    )

    def __init__(
        self,
        pretrained: str,
        *,
        interleave: bool = True,
        max_images: int = _ALL_IMAGES,
        image_width: int | None = None,
        image_height: int | None = None,
        image_max_side: int | None = None,
        **kwargs: Any,
    ) -> None:
        if image_max_side and (image_width or image_height):
            raise GrainsError("image_max_side= goes with neither image_width= nor image_height=; give one or the other")
        self.interleave, self.max_images, self.chat_applied = interleave, max_images, False
        self.image_width, self.image_height, self.image_max_side = image_width, image_height, image_max_side
        self.rgb = False  # vLLM converts images itself
        if max_images != _ALL_IMAGES:
            kwargs = {"limit_mm_per_prompt": {"image": max_images}, **kwargs}
        super().__init__(pretrained, **kwargs)
        try:
            self.processor: Any = transformers.AutoProcessor.from_pretrained(
                kwargs.get("tokenizer") or pretrained,
                revision=kwargs.get("revision"),
                trust_remote_code=kwargs.get("trust_remote_code", False),
            )
        except ImportError as error:
            raise missing_package(pretrained, error) from error
        self.image_token = ""
        if any(getattr(self.config, name, None) is not None for name in ("image_token_id", "image_token_index")):
            self.image_token = self.tokenizer.decode([image_inputs.image_token_id(self)], skip_special_tokens=False)
            self.image_token = image_inputs.placeholder(self)

    @property
    def config(self) -> Any:
        """The Hugging Face config."""
        return self._config

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Answer]:
        """Score continuations under steering, with images where the requests have them; both kinds may come mixed."""
        self._observe(requests)
        return super().loglikelihood(self.instructed(requests), disable_tqdm=disable_tqdm)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Generate under steering, with images where the requests have them; both kinds may come mixed."""
        self._observe(requests)
        return super().generate_until(self.instructed(requests), disable_tqdm=disable_tqdm)

    def score_images(self, requests: Sequence[ImageRequest], disable_tqdm: bool = False) -> list[Answer]:
        """Log-probability of every continuation and whether it is the greedy one.

        Raises:
            GrainsError: a prompt past `max_length`, or one after whose text the engine writes more.
        """
        del disable_tqdm  # an engine shows its own bar
        if self.enable_thinking:
            raise GrainsError("enable_thinking=True goes with generation alone; leave it out to score continuations")
        rows = [self._ids(each.context + each.continuation) for each in requests]
        answers = [self._answer_ids(each) for each in requests]
        counts = [
            self.continuation_length(each) if ids is None else len(ids)
            for each, ids in zip(requests, answers, strict=True)
        ]
        parameters = sampling_parameters(temperature=0, prompt_logprobs=1, max_tokens=1, detokenize=False)

        def parse(index: int, output: Any) -> Answer:
            whole, ids = list(output.prompt_token_ids), answers[index]
            if ids is not None and whole[-len(ids) :] != list(ids):
                raise GrainsError(
                    f"{requests[index].where}: vLLM writes more after the text of this prompt, so that the answer's "
                    "own tokens cannot be told; use grains_hf"
                )
            return self._parse_logprobs(tokens=whole, outputs=output, ctxlen=len(whole) - counts[index])

        images = [each.images for each in requests]
        kinds = [f"loglikelihood {count}" for count in counts]
        lengths = [len(row) - count for row, count in zip(rows, counts, strict=True)]
        batch = _batch(rows, images, kinds, [parameters] * len(rows), lengths)
        with _never_cut():
            found = self._answer(batch, parse)
        for request, answer in zip(requests, found, strict=True):
            if self.memo is None:
                self.cache_hook.add_partial("loglikelihood", request.args, answer)
        return found

    def generate_from_images(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Generate where every request shows images.

        Raises:
            GrainsError: a prompt that leaves less room than the answer may take.
        """
        del disable_tqdm
        eos: str = self.tokenizer.decode(self.eot_token_id)
        rows, images = list[list[int]](), list[list[Image.Image]]()
        parameters, stops = list[Any](), list[list[str]]()
        for request in requests:
            arguments: Any = request.args
            context: str = arguments[0]
            options, until, tokens = self.modify_gen_kwargs(
                dict(arguments[1]), eos=eos, default_max_gen_toks=self.max_gen_toks
            )
            if not self.chat_applied:
                context = replace_placeholders(context, DEFAULT_IMAGE_PLACEHOLDER, self.image_token, self.max_images)
            rows.append(self._ids(context))
            images.append(image_inputs.check_images(self, images_of(request), named(request)))
            # a reasoning model's thoughts may hold the task's own stop sequences
            stop = [each for each in until if each == eos] if self.think_end_token else until
            parameters.append(sampling_parameters(max_tokens=tokens, stop=stop, **options))
            stops.append(until)

        def parse(index: int, output: Any) -> str:
            tokens, most = len(output.prompt_token_ids), self.max_length - parameters[index].max_tokens
            if tokens > most:
                raise GrainsError(
                    f"{named(requests[index])}: prompt and images have {tokens} tokens but only {most} of max_length="
                    f"{self.max_length} are left beside the answer, and images are never cut; use smaller images, a "
                    "smaller max_gen_toks or raise max_length"
                )
            return postprocess_generated_text(output.outputs[0].text, stops[index], self.think_end_token)

        kinds = [repr(each) for each in parameters]
        with _never_cut():
            return self._answer(_batch(rows, images, kinds, parameters, [len(row) for row in rows]), parse)

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, **image_inputs.bos_options(self, [text]))["input_ids"]

    def _answer_ids(self, request: ImageRequest) -> list[int] | None:
        """The continuation's own tokens; None where it changes its context's last one and is only counted."""
        ids = self._continuation_ids(request)
        if ids is None:
            self.check_countable(request)
        return ids

    def _without_placeholder(self, request: Instance) -> Instance:
        return super()._without_placeholder(request) if self.image_token else as_text(request)

    def _check_images(self, shown: Sequence[Instance]) -> None:
        """Refuse what would be left out of prompts with images, and engines that would read them in another way.

        Raises:
            GrainsError: found tokens in the prompt, engines of lm-eval's own, a model without image tokens, or images
                that must be seen both ways on a CPU.
        """
        if not shown:
            return
        check_one_engine({"data_parallel_size": self.data_parallel_size})
        if not self.image_token:
            raise GrainsError(f"the configuration of {self._pretrained} names no image token; use grains_hf")
        if self.insertion is not None:
            raise GrainsError(
                "form=text and form=embedding are not put into prompts with images; use grains_hf with form=kv"
            )
        if reads_images_causally(self.model.llm_engine.model_config):
            raise GrainsError(
                f"the tokens of an image see each other in {self._pretrained}, but not where vLLM runs on a CPU; "
                f"run {NAME} on a GPU, or use grains_hf"
            )


def _batch(
    rows: Sequence[list[int]],
    images: Sequence[Sequence[Image.Image]],
    kinds: Sequence[str],
    parameters: Sequence[Any],
    lengths: Sequence[int],
) -> Batch:
    """Requests with images, see `Batch`."""

    def prompt(index: int) -> dict[str, Any]:
        return {"prompt_token_ids": rows[index], "multi_modal_data": {"image": list(images[index])}}

    shown = [" ".join([kind, *map(image_hash, each)]) for kind, each in zip(kinds, images, strict=True)]
    sizes = [len(row) + _IMAGE_TOKENS * len(each) for row, each in zip(rows, images, strict=True)]
    return Batch(keys_of(rows, shown), prompt, sizes, parameters, lengths)


@contextmanager
def _never_cut() -> Generator[None, None, None]:
    """Say in one line what vLLM refuses of prompts with images.

    Raises:
        GrainsError: it refuses one.
    """
    try:
        yield
    except GrainsError:
        raise
    except refusals() as error:
        raise GrainsError(
            f"vLLM refuses a prompt with images: {first_line(error)}; images are never cut: use smaller ones "
            "(image_max_side=) or raise max_model_len"
        ) from error
