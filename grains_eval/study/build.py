"""From a recipe to an artifact folder; an interrupted build resumes where it stopped."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from grains_eval.artifacts.layout import ArtifactContents
from grains_eval.artifacts.save import check_replaceable, save_artifact
from grains_eval.attribution import ATTRIBUTION_METHODS, SELECTIONS
from grains_eval.errors import GrainsError, pick
from grains_eval.examples import Examples, load_examples
from grains_eval.models import LoadedModel
from grains_eval.models.layers import find_layers
from grains_eval.models.loading import read_config
from grains_eval.progress import silent
from grains_eval.recipes import Recipe
from grains_eval.steering import OPERATORS, check_layer
from grains_eval.study.cache import AttributionCache, build_context_with_cache
from grains_eval.study.development_set import DevelopmentSet, development_set
from grains_eval.study.distributed import Processes, is_first_process, processes
from grains_eval.study.fidelity import fidelity
from grains_eval.study.methods import BUILDERS, MethodInputs, leaves_open
from grains_eval.study.provenance import data_provenance, model_identity, recipe_provenance
from grains_eval.study.session import OutputFolder, Session
from grains_eval.study.unfinished import abandon, claimed, drop, forget, take_up, work_folder
from grains_eval.vectors import METHODS

logger = logging.getLogger(__name__)


def build_from_recipe(
    recipe: Recipe,
    session: Session,
    output: OutputFolder,
    *,
    examples: Examples | None = None,
    scores: Path | None = None,
) -> Path:
    """Build what a recipe describes, vectors, found tokens, adapter, instruction or contrast, into an artifact folder.

    Attributions are kept in `<output_path>.partial` until the artifact is written, so that the same call after an
    interrupt goes on where it stopped. Under `torchrun` or `accelerate launch` the processes share the attributions;
    the folder must be one that all of them see. Where the recipe says `auto`, layer and strength are chosen on the
    development examples.

    Args:
        recipe: What to build.
        session: The model, the user's tasks, and the progress display.
        output: The folder to write.
        examples: The examples, if they are drawn already.
        scores: Folder of attributions that several builds share; the caller removes it.

    Returns:
        The folder.

    Raises:
        GrainsError: anything the user can fix; nothing is written then.
    """
    if output.path.exists() and not output.overwrite:
        forget(output.path)
    check_replaceable(output.path, overwrite=output.overwrite)
    makes = pick(METHODS, recipe.vectors.method, METHODS.what).makes
    if makes == "instruction":
        if is_first_process():
            save_artifact(_instruction(recipe, session), output.path, overwrite=output.overwrite)
        return output.path
    with claimed(output.path):
        if session.lm is None:
            check_steering(recipe, _configured_layers(session.model_args))
        session = session.opened()
        loaded = session.loaded
        check_steering(recipe, len(find_layers(loaded.model)))
        group = processes()
        examples = examples or load_examples(recipe.data, loaded, session.include_path)
        state = {"recipe": recipe.fingerprint(), **model_identity(session.model_args, loaded)}
        work = work_folder(output.path)
        cache = AttributionCache(scores or work, recipe.seed, state["weights"])
        if group.is_first:
            take_up(work, state, overwrite=output.overwrite)
        group.wait()
        torch.manual_seed(recipe.seed)
        _attribute_together(recipe, session, examples, cache, group)
        if group.is_first:
            _build(recipe, session, output, examples, cache)
        group.wait()
    return output.path


def _instruction(recipe: Recipe, session: Session) -> ArtifactContents:
    """A prompting baseline, which needs neither model nor examples."""
    loaded = session.loaded if session.lm is not None else None
    origin = {
        **recipe_provenance(recipe, session.model_args, loaded),
        **data_provenance(Examples((), ()), DevelopmentSet(()), None),
    }
    text: str = METHODS[recipe.vectors.method].function(recipe)
    return ArtifactContents(instruction=text, recipe=recipe.to_yaml(), provenance=origin)


def check_steering(recipe: Recipe, layers: int | None) -> None:
    """Refuse names and layers that do not fit before anything is loaded or computed.

    Args:
        recipe: The recipe.
        layers: Number of decoder layers, None where it is not known yet.

    Raises:
        GrainsError: an unknown operator, attribution method or selection, or a layer that the model lacks.
    """
    section = recipe.steering
    pick(OPERATORS, section.operator, OPERATORS.what)
    pick(ATTRIBUTION_METHODS, recipe.attribution.method, ATTRIBUTION_METHODS.what)
    pick(SELECTIONS, recipe.attribution.selection, SELECTIONS.what)
    named = section.layers if isinstance(section.layers, list) else []
    if layers is not None:
        for layer in [*named, *(section.candidate_layers or [])]:
            check_layer(layer, layers)


def _configured_layers(model_args: Mapping[str, Any]) -> int | None:
    """The number of decoder layers that the model's configuration says."""
    return getattr(read_config(model_args).get_text_config(decoder=True), "num_hidden_layers", None)


def _attribute_together(
    recipe: Recipe, session: Session, examples: Examples, cache: AttributionCache, group: Processes
) -> None:
    """Score this process's share of the build examples into the cache; nothing where there is one process."""
    if group.count == 1 or not METHODS[recipe.vectors.method].is_attributing:
        return
    progress = session.progress if group.is_first else silent
    context = build_context_with_cache(session.loaded, group.share(examples.build), recipe, cache, progress)
    for encoded in context.progress(context.examples, f"attribution, process 1 of {group.count}"):
        context.attribute(encoded, recipe.attribution)
    group.wait()


def _build(recipe: Recipe, session: Session, output: OutputFolder, examples: Examples, cache: AttributionCache) -> None:
    """Run the method, choose its setting and write the artifact; the work folder goes at the end."""
    loaded, work = session.loaded, work_folder(output.path)
    try:
        context = build_context_with_cache(loaded, examples.build, recipe, cache, session.progress)
        development = watched(loaded, examples, recipe, session.include_path)
        result = BUILDERS[METHODS[recipe.vectors.method].makes](
            MethodInputs(context, development, work, tuple(session.include_path))
        )
        tested = fidelity(context, result.attributions) if result.attributions else {}
    except GrainsError:
        abandon(work)
        raise
    origin = {
        **recipe_provenance(recipe, session.model_args, loaded),
        **data_provenance(examples, development, result.choice),
        **result.notes,
        **({"fidelity": tested} if tested else {}),
    }
    contents = ArtifactContents(
        vectors=result.vectors,
        tokens=result.tokens,
        adapter=result.adapter,
        contrast=result.contrast,
        provenance=origin,
        recipe=recipe.to_yaml(),
        attributions=result.attributions,
        selections=result.selections,
        images=[example.images for example in examples.build] if result.attributions else (),
    )
    save_artifact(contents, output.path, overwrite=output.overwrite)
    drop(work)
    steering = result.vectors or result.tokens
    setting = f" with {asdict(steering.recommended)}" if steering else ""
    logger.info("wrote %s%s", output.path, setting)


def watched(
    loaded: LoadedModel, examples: Examples, recipe: Recipe, include_path: Sequence[str] = ()
) -> DevelopmentSet:
    """The development set, empty where the recipe leaves nothing to choose."""
    if not leaves_open(recipe) or not examples.development:
        return DevelopmentSet(())
    return development_set(loaded, examples.development, recipe, include_path)
