"""Attributions of an unfinished build, kept so that an interrupt costs one example and not all of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from grains_eval import plugins
from grains_eval.artifacts.save import save_tensors
from grains_eval.attribution import attribute
from grains_eval.files import whole_file
from grains_eval.models import EncodedExample, LoadedModel, encode_all
from grains_eval.progress import Progress, silent
from grains_eval.recipes import AttributionConfig, Recipe
from grains_eval.types import Attribution, PreferenceExample
from grains_eval.vectors import BuildContext

# keys of the attribution section that change what is selected or how fast, but no score
_NOT_SCORING = {
    "top_k", "selection", "candidates", "modality", "max_document_frequency", "internal_batch_size", "share_prefix",
    "fidelity_examples",
}  # fmt: skip
_NUMBERS = ("value", "baseline_value", "completeness_error", "steps")


@dataclass(frozen=True)
class AttributionCache:
    """Scores of an unfinished build, one safetensors file per example and setting.

    Attributes:
        folder: Beside the artifact to be written; removed once that is there.
        seed: Seeds random and SmoothGrad scores.
        model: `weights_fingerprint` of the model.
    """

    folder: Path
    seed: int = 0
    model: str = ""

    def file(self, encoded: EncodedExample, config: AttributionConfig) -> Path:
        """Where an example's scores are kept."""
        setting = config.model_dump(mode="json", exclude=_NOT_SCORING)
        tokens = [part.tolist() for part in (encoded.input_ids, encoded.chosen, encoded.rejected)]
        digest = hashlib.sha256(
            json.dumps([self.model, self.seed, encoded.example.id, tokens, setting, dict(plugins.digests())]).encode()
        )
        # the embeddings hold the images' content
        digest.update(encoded.embeddings.float().cpu().contiguous().numpy().tobytes())
        return self.folder / f"{digest.hexdigest()[:24]}.safetensors"

    def read(self, encoded: EncodedExample, config: AttributionConfig) -> Attribution | None:
        """Scores from an earlier attempt; None where there are none, or the file is broken."""
        file = self.file(encoded, config)
        if not file.is_file():
            return None
        try:
            with safe_open(file, framework="pt") as handle:
                numbers: dict[str, float] = json.loads(handle.metadata()["numbers"])
                scores = handle.get_tensor("scores")
        except (SafetensorError, OSError, KeyError, TypeError, json.JSONDecodeError):
            return None
        return Attribution(
            example_id=encoded.example.id,
            tokens=encoded.tokens,
            scores=scores,
            is_image=encoded.is_image.cpu(),
            is_candidate=encoded.is_candidate.cpu(),
            value=numbers["value"],
            baseline_value=numbers["baseline_value"],
            completeness_error=numbers["completeness_error"],
            steps=int(numbers["steps"]),
            patches=encoded.patches,
        )

    def write(self, encoded: EncodedExample, config: AttributionConfig, attribution: Attribution) -> None:
        """Keep an example's scores."""
        numbers = json.dumps({name: getattr(attribution, name) for name in _NUMBERS})
        with whole_file(self.file(encoded, config)) as part:
            save_tensors({"scores": attribution.scores.contiguous()}, part, ("numbers", numbers))


def build_context_with_cache(
    loaded: LoadedModel,
    examples: Sequence[PreferenceExample],
    recipe: Recipe,
    cache: AttributionCache | None,
    progress: Progress = silent,
) -> BuildContext:
    """A build that answers from the cache where it can and adds to it where it cannot."""

    def score(encoded: EncodedExample, config: AttributionConfig) -> Attribution:
        known = cache.read(encoded, config) if cache is not None else None
        if known is None:
            known = attribute(loaded, encoded, config, recipe.seed)
            if cache is not None:
                cache.write(encoded, config, known)
        return known

    encoded = encode_all(loaded, examples, recipe.attribution.visual_baseline)
    return BuildContext(loaded, encoded, recipe, score, progress)
