"""From a recipe to an artifact folder; an interrupted build goes on where it stopped."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from getpass import getuser
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import torch
from transformers import PreTrainedModel

from grains_eval.artifacts import check_replaceable, package_versions, save
from grains_eval.attribution import ATTRIBUTION_METHODS, SELECTIONS, attribute
from grains_eval.errors import GrainsError, pick, unknown
from grains_eval.models import EncodedExample, LoadedModel, encode_all
from grains_eval.models.blocks import find_blocks
from grains_eval.models.loading import read_config
from grains_eval.preferences import Examples, load_examples
from grains_eval.recipes import AttributionConfig, Recipe
from grains_eval.steering import OPERATORS, check_layer
from grains_eval.study.cache import AttributionCache
from grains_eval.study.development import DevelopmentSet, development_set
from grains_eval.study.distributed import is_first_process, processes
from grains_eval.study.loading import load_plain
from grains_eval.study.making import (
    FOUND,
    METHOD_NAMES,
    METHODS,
    PROMPT,
    TOKEN_CONTROLS,
    Job,
    instruction_of,
    leaves_open,
)
from grains_eval.study.tune import Choice
from grains_eval.types import Attribution, Kind, PreferenceExample
from grains_eval.vectors import CONTROL_METHODS, BuildContext
from grains_eval.vectors.context import Progress, silent

logger = logging.getLogger(__name__)


# methods whose scores are worth splitting over processes
ATTRIBUTING = frozenset({"grains", "negated", FOUND})


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


def model_identity(model_args: Mapping[str, Any], loaded: LoadedModel | None) -> dict[str, Any]:
    """What tells two models apart: their arguments, without where and in what batches they run, and their weights."""
    arguments = {key: str(value) for key, value in sorted(model_args.items()) if key not in _RUNTIME}
    return {"model_args": arguments, "weights": weights_fingerprint(loaded.model) if loaded else None}


def weights_fingerprint(model: PreTrainedModel) -> str:
    """16 hex digits over the beginning of every parameter that is in memory."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(name.encode())
        if parameter.device.type != "meta":
            digest.update(parameter.detach().flatten()[:64].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


# model arguments that change no number worth telling apart
_RUNTIME = frozenset({"device", "batch_size", "max_batch_size", "softmax_dtype"})


def _curve(choice: Choice) -> list[dict[str, Any]]:
    """The points of a development curve as JSON values; one of them is the chosen one."""
    return [
        {
            "layers": None if point.config.layers is None else list(point.config.layers),
            "strength": point.config.strength,
            **point.numbers(),
            "is_chosen": point is choice.point,
        }
        for point in choice.points
    ]


def check_steering(recipe: Recipe, blocks: int | None) -> None:
    """Refuse a steering section that does not fit before anything is loaded or computed.

    Args:
        recipe: The recipe.
        blocks: Number of decoder blocks, None where it is not known yet.

    Raises:
        GrainsError: an unknown operator, or a block that the model lacks.
    """
    section = recipe.steering
    pick(OPERATORS, section.operator, "steering operator")
    pick(ATTRIBUTION_METHODS, recipe.attribution.method, "attribution method")
    pick(SELECTIONS, recipe.attribution.selection, "selection")
    named = section.layers if isinstance(section.layers, list) else []
    if blocks is not None:
        for layer in [*named, *(section.candidate_layers or [])]:
            check_layer(layer, blocks)


def _configured_blocks(model_args: Mapping[str, Any]) -> int | None:
    """The number of decoder blocks that the model's configuration says."""
    return getattr(read_config(model_args).get_text_config(decoder=True), "num_hidden_layers", None)


@contextmanager
def _claimed(target: Path) -> Generator[None, None, None]:
    """Let no other process build the same folder; the system frees the claim of one that died.

    Raises:
        GrainsError: another process is building it.
    """
    name = hashlib.sha256(str(target.resolve()).encode()).hexdigest()[:16]
    # not unlinked: a process that waits at the old file would not see the claim on a new one
    with (Path(gettempdir()) / f"grains-eval-{getuser()}-{name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise GrainsError(
                f"another process is building '{target}'; wait for it, or choose another --output_path"
            ) from error
        yield


def watched(
    loaded: LoadedModel, examples: Examples, recipe: Recipe, include_path: Sequence[str] = ()
) -> DevelopmentSet:
    """The development set, empty where the recipe leaves nothing to choose."""
    if not leaves_open(recipe) or not examples.development:
        return DevelopmentSet(())
    return development_set(loaded, examples.development, recipe, include_path)


def kind_of(recipe: Recipe) -> Kind:
    """Whether a recipe makes a method or a control; tokens drawn at random make no claim either."""
    method = recipe.vectors.method
    by_chance = method in ATTRIBUTING and recipe.attribution.method == "random"
    return "control" if method in CONTROL_METHODS | TOKEN_CONTROLS or by_chance else "method"


def provenance(
    recipe: Recipe,
    model_args: Mapping[str, Any],
    loaded: LoadedModel | None,
    examples: Examples,
    development: DevelopmentSet,
    choice: Choice | None,
) -> dict[str, Any]:
    """Everything that says where an artifact comes from, as JSON values."""
    return {
        "method": recipe.vectors.method,
        "kind": kind_of(recipe),
        "evaluation": {"tasks": recipe.evaluation.tasks, "preserve": recipe.evaluation.preserve},
        "base_model": model_args.get("pretrained") if isinstance(model_args.get("pretrained"), str) else None,
        "revision": model_args.get("revision"),
        "commit": getattr(loaded.model.config, "_commit_hash", None) if loaded else None,
        **model_identity(model_args, loaded),
        "architecture": type(loaded.model).__name__ if loaded else None,
        "dtype": str(loaded.model.dtype).removeprefix("torch.") if loaded else None,
        "modality": "vision-language" if any(example.images for example in examples.build) else "text",
        "source": recipe.data.task or recipe.data.path,
        "recipe": recipe.name,
        "recipe_hash": recipe.fingerprint(),
        "seed": recipe.seed,
        "examples": len(examples.build),
        "doc_hashes": examples.doc_hashes(development.preserved),
        "chosen_by": choice.reason if choice else None,
        "development_curve": _curve(choice) if choice else [],
        "versions": package_versions(),
    }


def build_from_recipe(
    recipe: Recipe,
    model_args: Mapping[str, Any],
    output_path: str | Path,
    *,
    overwrite: bool = False,
    progress: Callable[[Sequence[Any], str], Iterable[Any]] = silent,
    include_path: Sequence[str] = (),
    loaded: LoadedModel | None = None,
    examples: Examples | None = None,
    scores: Path | None = None,
) -> Path:
    """Build what a recipe describes, vectors, adapter or instruction, into an artifact folder.

    Attributions are kept in `<output_path>.partial` until the artifact is written, so that the same call after an
    interrupt goes on where it stopped. Under `torchrun` or `accelerate launch` the processes share the attributions;
    the folder must be one that all of them see. Where the recipe says `auto`, layer and strength are chosen on the
    development examples.

    Args:
        recipe: What to build.
        model_args: lm-eval's model arguments.
        output_path: The folder to write.
        overwrite: Replace it if it exists.
        progress: Wraps loops over examples, with a description.
        include_path: Folders with the user's own tasks.
        loaded: The model, if it is loaded already.
        examples: The examples, if they are drawn already.
        scores: Folder of attributions that several builds share; the caller removes it.

    Returns:
        The folder.

    Raises:
        GrainsError: anything the user can mend; nothing is written then.
    """
    target = Path(output_path)
    if target.exists() and not overwrite:
        raise GrainsError(f"'{target}' exists; choose another --output_path or pass --overwrite")
    check_replaceable(target)
    method = recipe.vectors.method
    if method == PROMPT:
        if not is_first_process():
            return target
        origin = provenance(recipe, model_args, loaded, Examples((), ()), DevelopmentSet(()), None)
        return save(
            None,
            target,
            instruction=instruction_of(recipe),
            recipe=recipe.to_yaml(),
            provenance=origin,
            overwrite=overwrite,
        )
    if method not in METHODS:
        raise unknown(method, METHOD_NAMES, "method")
    with _claimed(target) if is_first_process() else nullcontext():
        if loaded is None:
            check_steering(recipe, _configured_blocks(model_args))
        loaded = loaded or LoadedModel.of(load_plain(model_args))
        check_steering(recipe, len(find_blocks(loaded.model)))
        group = processes()
        examples = examples or load_examples(recipe.data, loaded, include_path)
        state = {"recipe": recipe.fingerprint(), **model_identity(model_args, loaded)}
        work = target.with_name(f"{target.name}.partial")
        cache = AttributionCache(scores or work, recipe.seed, state["weights"])
        if group.is_first:
            _adopt(work, state, overwrite)
        group.wait()
        torch.manual_seed(recipe.seed)
        if method in ATTRIBUTING and group.count > 1:
            mine = group.share(examples.build)
            part = build_context_with_cache(loaded, mine, recipe, cache, progress if group.is_first else silent)
            for encoded in part.progress(part.examples, f"attribution, process 1 of {group.count}"):
                part.attribute(encoded, recipe.attribution)
            group.wait()
        if not group.is_first:
            group.wait()
            return target
        try:
            context = build_context_with_cache(loaded, examples.build, recipe, cache, progress)
            development = watched(loaded, examples, recipe, include_path)
            made = METHODS[method](Job(context, development, work))
        except GrainsError:
            if not any(work.glob("*.safetensors")):  # nothing that another attempt could use
                shutil.rmtree(work, ignore_errors=True)
            raise
        origin = {**provenance(recipe, model_args, loaded, examples, development, made.choice), **made.notes}
        folder = save(
            replace(made.vectors, provenance=origin) if made.vectors is not None else None,
            target,
            attributions=made.attributions,
            selections=made.selections,
            pictures=[example.images for example in examples.build] if made.attributions else (),
            adapter=made.adapter,
            recipe=recipe.to_yaml(),
            provenance=origin,
            overwrite=overwrite,
        )
        shutil.rmtree(work, ignore_errors=True)
        group.wait()
        logger.info("wrote %s%s", folder, f" with {asdict(made.vectors.recommended)}" if made.vectors else "")
        return folder


def _adopt(work: Path, state: Mapping[str, Any], overwrite: bool) -> None:
    """Go on with an unfinished build of the same recipe and model; one of another is dropped only with overwrite."""
    note = work / "state.json"
    try:
        same = json.loads(note.read_text(encoding="utf-8")) == state
    except (OSError, json.JSONDecodeError):
        same = False
    if work.exists() and not same:
        if any(work.iterdir()) and not note.is_file():
            raise GrainsError(
                f"'{work}' is in the way and is no unfinished build; move it or choose another --output_path"
            )
        if any(work.glob("*.safetensors")) and not overwrite:
            raise GrainsError(
                f"'{work}' holds an unfinished build of another recipe or model; finish that one, choose another "
                "--output_path or pass --overwrite"
            )
        shutil.rmtree(work)
    if not same:
        work.mkdir(parents=True)
        note.write_text(json.dumps(state), encoding="utf-8")
    else:
        done = len(list(work.glob("*.safetensors")))
        if done:
            logger.warning("going on with %d examples that are done", done)
