"""Where an artifact comes from: model, recipe, documents, choice of setting, versions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel

from grains_eval import plugins
from grains_eval.examples import Examples
from grains_eval.models import LoadedModel
from grains_eval.recipes import Recipe
from grains_eval.study.development_set import DevelopmentSet
from grains_eval.study.tune import Choice
from grains_eval.types import Kind
from grains_eval.vectors import METHODS
from grains_eval.versions import package_versions

# model arguments that change no number worth telling apart
_RUNTIME = frozenset({"device", "batch_size", "max_batch_size", "softmax_dtype"})


def model_identity(model_args: Mapping[str, Any], loaded: LoadedModel | None) -> dict[str, Any]:
    """What tells two models apart: arguments, without where and in what batches they run, weights, and plug-ins."""
    arguments = {key: str(value) for key, value in sorted(model_args.items()) if key not in _RUNTIME}
    weights = weights_fingerprint(loaded.model) if loaded else None
    return {"model_args": arguments, "weights": weights, "plugins": dict(plugins.digests())}


def weights_fingerprint(model: PreTrainedModel) -> str:
    """16 hex digits over the beginning of every parameter that is in memory."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(name.encode())
        if parameter.device.type != "meta":
            digest.update(parameter.detach().flatten()[:64].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def kind_of(recipe: Recipe) -> Kind:
    """Whether a recipe makes a method or a control; tokens drawn at random make no claim either."""
    method = METHODS[recipe.vectors.method]
    by_chance = method.is_attributing and recipe.attribution.method == "random"
    return "control" if method.is_control or by_chance else "method"


def recipe_provenance(recipe: Recipe, model_args: Mapping[str, Any], loaded: LoadedModel | None) -> dict[str, Any]:
    """What is known before anything is built, as JSON values.

    Args:
        recipe: What is built.
        model_args: lm-eval's model arguments.
        loaded: The model; None where the method needs none.
    """
    pretrained = model_args.get("pretrained")
    return {
        "method": recipe.vectors.method,
        "kind": kind_of(recipe),
        "evaluation": {"tasks": recipe.evaluation.tasks, "preserve": recipe.evaluation.preserve},
        "base_model": pretrained if isinstance(pretrained, str) else None,
        "revision": model_args.get("revision"),
        "commit": getattr(loaded.model.config, "_commit_hash", None) if loaded else None,
        **model_identity(model_args, loaded),
        "architecture": type(loaded.model).__name__ if loaded else None,
        "dtype": str(loaded.model.dtype).removeprefix("torch.") if loaded else None,
        "source": recipe.data.task or recipe.data.path,
        "recipe": recipe.name,
        "recipe_hash": recipe.fingerprint(),
        "seed": recipe.seed,
        "versions": package_versions(),
    }


def data_provenance(examples: Examples, development: DevelopmentSet, choice: Choice | None) -> dict[str, Any]:
    """The documents behind an artifact and how its setting was chosen, as JSON values."""
    return {
        "modality": "vision-language" if any(example.images for example in examples.build) else "text",
        "examples": len(examples.build),
        "doc_hashes": examples.doc_hashes(development.preserved),
        "chosen_by": choice.reason if choice else None,
        "development_curve": _curve(choice) if choice else [],
    }


def _curve(choice: Choice) -> list[dict[str, Any]]:
    """The points of a development curve; one of them is the chosen one."""
    return [
        {
            "layers": None if point.config.layers is None else list(point.config.layers),
            "strength": point.config.strength,
            **point.numbers(),
            "is_chosen": point is choice.point,
        }
        for point in choice.points
    ]
