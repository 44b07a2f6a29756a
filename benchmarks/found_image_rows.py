"""What is measured in one trained image world: `found_token_rows`, with image tokens among the candidates.

Found tokens and GrAInS vectors are built from text and image tokens together (`joint`), as the recipe says, and from
either alone. Cues stand in words of the build prompts or as stamps in their images.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import Any, cast

from benchmarks.demo_seeds import Trial
from benchmarks.found_token_rows import (
    CUE,
    FOUND,
    UNSTEERED,
    VECTORS,
    Measured,
    timed_attribution,
    token_rows,
    vector_rows,
)
from benchmarks.image_seeds import build_questions, fixed_setting, open_trial
from benchmarks.worlds.image_model import choice_log_probs
from benchmarks.worlds.image_words import CUE_STAMPS, CUE_WORDS, prose, room_question
from benchmarks.worlds.image_world import ImageWorld, Item, conflict_items, make_world, read_scene, task_items
from benchmarks.worlds.train_image import train_to_folder
from grains_eval.demo.scenes import CELLS, INKS
from grains_eval.recipes import load_recipe
from grains_eval.steering import steered
from grains_eval.tasks_path import task_directory
from grains_eval.types import SteeringConfig, SteeringVectors, TokenConfig, TokenPool
from grains_eval.vectors import BuildContext
from grains_eval.vectors.found_tokens import found_tokens
from grains_eval.virtual_tokens import ResolvedTokens, shown

IMAGES = "images"
STAMP = "cue in the image"
MODALITIES = ("text", "image")
# rows that are no controls: the goal does not ask to be ahead of them
FOUND_MODALITIES = {modality: f"{FOUND}, {modality} tokens" for modality in MODALITIES}
VECTOR_MODALITIES = {modality: f"GrAInS vector, {modality} tokens" for modality in MODALITIES}
ABLATIONS = {
    STAMP,
    *FOUND_MODALITIES.values(),
    *VECTOR_MODALITIES.values(),
    *(f"{label}, tuned" for label in VECTOR_MODALITIES.values()),
}
TOGETHER = 64  # virtual tokens that share a pass


class MeasuredImages(Measured):
    """Rows of one image world.

    Attributes:
        world: The world.
        context: A build in progress.
    """

    def __init__(self, one: Trial, kept: Sequence[Item], world: ImageWorld, context: BuildContext) -> None:
        super().__init__(one, (), cast("Any", kept))
        self.world, self.context = world, context

    def said(self, pool: TokenPool) -> str:
        """The most frequent words and stamps of a pool, and where they stood."""
        items = {item["id"]: item for item in build_questions(self.world, len(self.context.examples))}
        names: list[str] = []
        for one in pool.origins:
            if not one.example:
                return ""
            marks = {mark.cell: mark.shape for mark in read_scene(items[one.example])}
            # the cells of an image follow the first token
            names.append(f"[{marks.get(one.position - 1, 'empty cell')}]" if one.token_id < 0 else one.word)
        distances = sorted(one.distance for one in pool.origins)
        words = ", ".join(f"{name} {count}" for name, count in Counter(names).most_common(8))
        return f"{len(names)} tokens, distance {distances[len(distances) // 2]}: {words}"

    def steered(self, vectors: SteeringVectors | None, setting: SteeringConfig, items: Sequence[Any]) -> list[float]:
        """1.0 per item whose gold choice is the likeliest under a vector, or without one."""
        with nullcontext() if vectors is None else steered(self.one.loaded.model, vectors, setting):
            return self._right(items)

    def right(self, items: Sequence[Any], tokens: ResolvedTokens | None = None) -> list[float]:
        """1.0 per item whose gold choice is the likeliest, with or without a virtual token."""
        with nullcontext() if tokens is None else shown(self.one.loaded.model, [[tokens]]):
            return self._right(items)

    def harmless(self, tokens: Sequence[ResolvedTokens]) -> list[bool]:
        """Whether at most one of the kept items is lost where each token is shown; tokens share a pass."""
        found: list[float] = []
        for start in range(0, len(tokens), TOGETHER):
            some = tokens[start : start + TOGETHER]
            # prompts of one length share a pass, which keeps the items of a token together
            with shown(self.one.loaded.model, [[token] for token in some]):
                right = self._right([*self.kept] * len(some))
            size = len(self.kept)
            found += [sum(right[first : first + size]) for first in range(0, len(right), size)]
        least = sum(self.right(self.kept)) - 1
        return [number >= least for number in found]

    def _right(self, items: Sequence[Any]) -> list[float]:
        loaded = self.one.loaded
        rows = choice_log_probs(
            cast("Any", loaded.model), cast("Any", loaded.processor), items, background=self.world.background
        )
        return [
            float(max(range(len(row)), key=row.__getitem__) == item["gold"])
            for row, item in zip(rows, items, strict=True)
        ]


def trained(seed: int, folder: Path) -> dict[str, Any]:
    """The record of a world's model, trained first where it is missing, as that of text worlds reads."""
    if not (folder / "training.json").is_file():
        train_to_folder("split", seed, folder, keep_failures=True)
    record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    accuracy = {"preferred": record["accuracy"]["rooms_truth_word"], **record["accuracy"]}
    return {"gate_passed": not record["gates_missed"], "accuracy": accuracy, "discarded": []}


def open_images(seed: int, folder: Path, examples: int | None = None) -> MeasuredImages:
    """A trained image world; `examples` overrides the recipe's number of build examples."""
    recipe = load_recipe(task_directory() / "demo" / "image" / "recipe.yaml")
    if examples is not None:
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"examples": examples})})
    opened = open_trial(seed, recipe, folder)
    tuning = [*conflict_items(opened.world, "train", 1), *conflict_items(opened.world, "validation", 4)]
    one = ImageTrial(opened.loaded, recipe, *(cast("Any", part) for part in (tuning, opened.test, opened.skills)))
    return MeasuredImages(one, opened.skills[::6], opened.world, opened.context)


class ImageTrial(Trial):
    """A trained image world, whose setting is that of its recipe."""

    @property
    def setting(self) -> SteeringConfig:
        """The recipe's, fixed in advance."""
        return fixed_setting(self.recipe)


def cued(world: ImageWorld, items: Sequence[Item], stamped: bool) -> list[Item]:
    """The same questions with one truth cue each: a word of the prompt, or a stamp on a free cell of the image."""
    rng = Random(f"cued {world.seed} {stamped}")
    found: list[Item] = []
    for item in items:
        if stamped:
            free = sorted(set(range(CELLS)) - {mark.cell for mark in read_scene(item)})
            mark: list[int | str] = [rng.choice(free), CUE_STAMPS["truth"], rng.choice(tuple(INKS))]
            found.append({**item, "scene": [*item["scene"], mark]})
        else:
            attribute = cast("Any", item["id"].split("-")[2])
            words = room_question(item["cluster"], attribute, [rng.choice(CUE_WORDS["truth"])])
            found.append({**item, "prompt": prose(words)})
    return found


def measure_images(measured: MeasuredImages, draws: int, pools: bool = True) -> dict[str, Any]:
    """Measure every row of an image world that is not measured yet; arguments and result as of `measure_world`."""
    one = measured.one
    measured.add(UNSTEERED, [measured.right])
    for label, stamped in ((CUE, False), (STAMP, True)):
        asked = cued(measured.world, cast("Any", one.test), stamped)
        measured.add(label, [lambda items, asked=asked: measured.right(asked if items is one.test else items)])
    seconds: dict[str, float] = {}
    context = replace(measured.context, attribute=timed_attribution(one, seconds))
    vector_rows(measured, context, VECTORS)
    for modality in MODALITIES:
        own = context.with_attribution(modality=modality)
        vector_rows(measured, own, {VECTOR_MODALITIES[modality]: ("grains", None)})
    token_rows(measured, context, seconds, draws, pools)
    for modality, label in FOUND_MODALITIES.items():
        own = context.with_attribution(modality=modality)
        section = own.recipe.vectors.model_copy(update={"method": "found_tokens"})
        own = replace(own, recipe=own.recipe.model_copy(update={"vectors": section}))
        measured.add_tokens(
            label, [lambda own=own: found_tokens(own, measured.harmless, both_sides=False).tokens], TokenConfig()
        )
    seconds = {part: round(spent, 1) for part, spent in seconds.items()}
    return {"cpu_seconds": seconds, "rows": {label: asdict(row) for label, row in measured.rows.items()}}


def image_items(seed: int) -> Sequence[Mapping[str, Any]]:
    """The questions that accuracy is over, in the order of the answers."""
    return task_items(make_world("split", seed))["test"]
