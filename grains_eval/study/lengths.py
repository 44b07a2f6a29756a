"""How long a recipe's prompts and responses are, read by the model's tokenizer without its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lm_eval.models.hf_vlms import HFMultimodalLM
from lm_eval.models.huggingface import HFLM

from grains_eval.errors import GrainsError, first_line
from grains_eval.examples import load_examples
from grains_eval.models import EncodedExample, LoadedModel, image_inputs, prompt_text
from grains_eval.models.loading import is_vision_language
from grains_eval.models.sketch import Sketch
from grains_eval.models.text import encode_responses
from grains_eval.recipes import Recipe
from grains_eval.study.build import watched
from grains_eval.types import PreferenceExample


@dataclass(frozen=True)
class Lengths:
    """Tokens of one example.

    Attributes:
        prompt: Those of images included.
        chosen: Of `y+`.
        rejected: Of `y-`.
        images: In the prompt.
        visual: Tokens of the prompt that stand for them.
    """

    prompt: int
    chosen: int
    rejected: int
    images: int = 0
    visual: int = 0

    @property
    def responses(self) -> tuple[int, int]:
        """Tokens of both responses."""
        return self.chosen, self.rejected

    def stand_in(self, dtype: torch.dtype = torch.float32) -> EncodedExample:
        """An example of these lengths without numbers, whose embeddings have this dtype."""
        prompt, chosen, rejected = (torch.empty(n, device="meta", dtype=dtype) for n in (self.prompt, *self.responses))
        example = PreferenceExample("", "", "", "", "", images=(None,) * self.images)  # pyright: ignore
        return EncodedExample(example, prompt, (), prompt, prompt, prompt, chosen, rejected)


@dataclass(frozen=True)
class Data:
    """What a build reads.

    Attributes:
        build: Examples that it is built from.
        development: Examples that its setting is chosen on.
        preserved: Per prompt of a preserved item, its tokens and those of every answer.
        notes: What is not counted, in words.
    """

    build: Sequence[Lengths]
    development: Sequence[Lengths]
    preserved: Sequence[tuple[int, Sequence[int]]] = ()
    notes: tuple[str, ...] = ()


def assumed(recipe: Recipe, prompt: int, response: int) -> Data:
    """As many examples as the recipe asks for, all of the same lengths."""
    one = Lengths(prompt, response, response)
    notes = ("items of preserved tasks are not counted: their lengths are not known",) * bool(
        recipe.evaluation.preserve
    )
    return Data([one] * recipe.data.examples, [one] * recipe.data.development, notes=notes)


def read_data(recipe: Recipe, arguments: Mapping[str, Any], drawn: Sketch, include_path: Sequence[str] = ()) -> Data:
    """The recipe's own examples, encoded as the build will.

    Raises:
        GrainsError: no tokenizer, no data, or an example that cannot be encoded.
    """
    advice = "give --prompt_tokens and --response_tokens to estimate without"
    try:
        loaded = LoadedModel.of(_tokenizing(arguments, drawn))
    except (OSError, ValueError, TypeError, ImportError) as error:
        reason = first_line(error)[:200]
        raise GrainsError(
            f"'{arguments['pretrained']}' has no tokenizer that can be loaded ({reason}); {advice}"
        ) from error
    try:
        examples = load_examples(recipe.data, loaded, include_path)
        development = watched(loaded, examples, recipe, include_path)
    except GrainsError:
        raise
    except Exception as error:  # a hub that cannot be reached raises anything
        reason = first_line(error)[:200]
        raise GrainsError(f"the recipe's data cannot be read ({reason}); {advice}") from error
    preserved = [
        (len(pairs[0][0]), [len(answer) for _, answer in pairs])
        for item in development.preserved
        if (pairs := [loaded.lm._encode_pair(*request.args[:2]) for request in item.requests])
    ]
    pictured = any(one.images for one in examples.build)
    notes = (*development.notes, *(("images of preserved items are not counted",) * bool(pictured and preserved)))
    return Data(
        [_lengths(loaded, one) for one in examples.build],
        [_lengths(loaded, one) for one in development.preference],
        preserved,
        notes,
    )


def _tokenizing(arguments: Mapping[str, Any], drawn: Sketch) -> Any:
    """lm-eval's own model object around a model without weights: what it tokenizes is what it would."""
    base: Any = HFMultimodalLM if is_vision_language(drawn.model.config) else HFLM

    class Tokenizing(base):
        def _create_model(self, *_: Any, **__: Any) -> None:
            self._model = drawn.model

    # the model's own arguments mean nothing here, and no device is touched
    given = {name: value for name, value in arguments.items() if name not in ("parallelize", "dtype", "device")}
    return Tokenizing(**{**given, "device": "cpu", "batch_size": 1})


def _lengths(loaded: LoadedModel, example: PreferenceExample) -> Lengths:
    text = prompt_text(loaded, example)
    if not example.images:
        prompt, chosen, rejected = encode_responses(loaded, example, text)
        return Lengths(len(prompt), len(chosen), len(rejected))
    where = f"example {example.id}"
    shown = image_inputs.check_images(loaded.lm, example.images, where)
    kept = image_inputs.strip_context(text, "")[0]
    ids = image_inputs.process(loaded.lm, [kept], [shown], where)["input_ids"][0]
    visual = int((ids == image_inputs.image_token_id(loaded.lm)).sum())
    found = [
        image_inputs.continuation_ids(loaded.lm, *image_inputs.strip_context(text, response), shown, where)
        for response in (example.chosen, example.rejected)
    ]
    return Lengths(len(ids), *(len(each or ()) for each in found), images=len(shown), visual=visual)
