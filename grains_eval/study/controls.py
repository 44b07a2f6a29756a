"""The controls beside every claim: vectors that should not work as well, applied as the method is.

Methods that share a setting share their controls; every other setting gets controls of its own.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from grains_eval.artifacts.layout import fingerprint
from grains_eval.artifacts.load import load_vectors, open_artifact
from grains_eval.artifacts.save import save_vectors
from grains_eval.attribution import attribute
from grains_eval.examples import Examples
from grains_eval.recipes import Recipe
from grains_eval.steering import resolve
from grains_eval.study.cache import build_context_with_cache
from grains_eval.study.methods import Variant
from grains_eval.study.session import Session
from grains_eval.types import Kind, SteeringVectors
from grains_eval.vectors.controls import negate, project_out, random_like, random_tokens


@dataclass(frozen=True)
class Controls:
    """What the controls of a comparison are.

    Attributes:
        names: All of them.
        bands: Draws of one control, by its label.
        beside: Per method, the names of the controls at its setting.
        notes: Whose settings they have, and what was left out.
    """

    names: tuple[str, ...] = ()
    bands: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    beside: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Method:
    """A method whose vectors move something.

    Attributes:
        name: Its name.
        vectors: What it built.
        recipe: Its recipe.
        examples: The build examples behind it.
    """

    name: str
    vectors: SteeringVectors
    recipe: Recipe
    examples: Examples

    @property
    def selects_tokens(self) -> bool:
        """Whether it masks tokens, so that blindly chosen ones are a control."""
        return self.name == "grains" or self.recipe.vectors.method == "grains"


def moves(vectors: SteeringVectors) -> bool:
    """Whether the recommended setting changes anything: not at strength 0, nor along directions of zeros."""
    resolved = resolve(vectors, vectors.recommended)
    return resolved is not None and any(bool(delta.any()) for delta in resolved.deltas.values())


def setting(vectors: SteeringVectors) -> Hashable:
    """Where, how and how far tokens are moved, whatever the directions: what a control takes over."""
    config = vectors.recommended
    layers = vectors.layers if config.layers is None else config.layers
    # absolute strengths multiply directions as long as they are
    lengths = [f"{float(vectors.directions[layer].norm()):.3g}" for layer in layers if config.unit == "absolute"]
    return vectors.site, tuple(layers), config.strength, config.unit, config.operator, config.positions, *lengths


def write_all_controls(built: Mapping[str, Variant], vocabulary: str, session: Session, folder: Path) -> Controls:
    """Write controls for every setting at which a method's vectors move something, once for methods that share it.

    Random vectors of equal norm, random tokens at equal norm and at their raw scale where one of the methods selects
    tokens, and of the first of them the sign-flipped vector and the one with the vocabulary direction projected out.

    Args:
        built: Methods by name, the most important one first.
        vocabulary: Name of the vocabulary control.
        session: An opened session.
        folder: Where the controls' folders go.
    """
    groups: dict[Hashable, list[Method]] = {}
    idle: list[str] = []
    for name, variant in built.items():
        artifact = open_artifact(variant.folder)
        # a control beside a control would say nothing
        if name == vocabulary or artifact.vectors is None or artifact.provenance.get("kind") == "control":
            continue
        if moves(artifact.vectors):
            method = Method(name, artifact.vectors, variant.recipe, variant.examples)
            groups.setdefault(setting(artifact.vectors), []).append(method)
        else:
            idle.append(name)
    still = f"{', '.join(idle)} move{'s' * (len(idle) == 1)} nothing"
    if not groups:
        return Controls(notes=(f"no controls: {still}",) if idle else ())
    words = load_vectors(built[vocabulary].folder) if vocabulary in built else None
    tokens = _RandomTokens(session)
    parts = [
        _write_controls(methods, index, len(groups), words, tokens, folder)
        for index, methods in enumerate(groups.values())
    ]
    places = "; ".join(_place(methods) for methods in groups.values())
    passed = f"; {still}, and unsteered runs are not controls" if idle else ""
    return Controls(
        tuple(name for part in parts for name in part.names),
        {label: names for part in parts for label, names in part.bands.items()},
        {name: names for part in parts for name, names in part.beside.items()},
        (
            f"random, negated and projected controls stand {places}{passed}",
            *(note for part in parts for note in part.notes),
        ),
    )


def _place(methods: Sequence[Method]) -> str:
    first, *others = (method.name for method in methods)
    shared = f", which {' and '.join(others)} share{'s' * (len(others) == 1)}" if others else ""
    return f"beside {first}, at its setting{shared}"


class _RandomTokens:
    """Vectors of blindly chosen tokens, drawn once for methods that differ in their setting only."""

    def __init__(self, session: Session) -> None:
        self.session, self.loaded = session, session.loaded
        self.drawn: dict[tuple[str, int], SteeringVectors] = {}

    def draw(self, method: Method, number: int) -> SteeringVectors:
        """One draw for a method, with no setting of its own."""
        recipe, seed = method.recipe, method.recipe.seed + 1 + number
        key = recipe.model_dump_json(include={"data", "attribution", "vectors", "seed"}), number
        if key not in self.drawn:
            context = build_context_with_cache(self.loaded, method.examples.build, recipe, None, self.session.progress)
            context = replace(context, attribute=lambda one, config: attribute(self.loaded, one, config, seed))
            self.drawn[key] = random_tokens(context).vectors
        return self.drawn[key]


def _write_controls(
    methods: Sequence[Method],
    index: int,
    count: int,
    vocabulary: SteeringVectors | None,
    tokens: _RandomTokens,
    folder: Path,
) -> Controls:
    """Write the controls of methods that share a setting, the `index`-th of `count` settings.

    Those of the first setting have plain names, so that a method that is added later leaves them as they are.
    """
    first = methods[0]
    apart = f"_beside_{first.name}" if index else ""
    made: dict[str, SteeringVectors] = {f"{first.name}_negated": negate(first.vectors)}
    projected = f"{first.name}_without_vocabulary"
    if vocabulary is not None and first.vectors.site == "block_output":
        made[projected] = project_out(first.vectors, vocabulary)
    draws = range(first.recipe.evaluation.control_draws)
    random = [f"random_{draw + 1}{apart}" for draw in draws]
    for draw, name in enumerate(random):
        made[name] = random_like(first.vectors, seed=first.recipe.seed + draw)
    source = dict.fromkeys(made, first)
    selecting = next((method for method in methods if method.selects_tokens), None)
    equal, raw = list[str](), list[str]()
    if selecting is not None:
        chosen = selecting.vectors.recommended
        for draw in draws:
            drawn = replace(tokens.draw(selecting, draw), recommended=chosen)
            equal.append(f"random_tokens_{draw + 1}{apart}")
            raw.append(f"random_tokens_raw_{draw + 1}{apart}")
            made |= {equal[-1]: drawn, raw[-1]: replace(drawn, recommended=_raw_setting(drawn, selecting.vectors))}
        source |= dict.fromkeys([*equal, *raw], selecting)
    idle = [name for name, control in made.items() if not moves(control)]
    made = {name: control for name, control in made.items() if name not in idle}
    for name, control in made.items():
        # derived from the method's own folder, so that one made from other vectors is out of date
        kind: Kind = "projection" if name == projected else "control"
        if not (folder / name).exists() or not _is_same(load_vectors(folder / name), control, kind):
            said = {"development_curve": [], "chosen_by": f"as for {source[name].name}"}
            origin = {**source[name].vectors.provenance, "method": name, "kind": kind, **said}
            save_vectors(replace(control, provenance=origin), folder / name, overwrite=True)
    named = f" beside {first.name}" if count > 1 else ""
    bands = {"random vectors": random, "random tokens": equal, "random tokens, raw scale": raw}
    kept = {f"{label}{named}": tuple(name for name in names if name in made) for label, names in bands.items()}
    return Controls(
        tuple(made),
        {label: names for label, names in kept.items() if names},
        {method.name: tuple(made) for method in methods},
        (f"{', '.join(idle)}: left out, since it moves nothing",) if idle else (),
    )


def _is_same(first: SteeringVectors, second: SteeringVectors, kind: Kind) -> bool:
    same = fingerprint(first) == fingerprint(second) and first.recommended == second.recommended
    return same and first.provenance.get("kind") == kind


def _raw_setting(drawn: SteeringVectors, vectors: SteeringVectors) -> Any:
    """The method's setting scaled by how much smaller the random tokens' deltas are."""
    layers = vectors.recommended.layers or vectors.layers
    ratio = sum(_delta_norm(drawn, layer) for layer in layers) / sum(_delta_norm(vectors, layer) for layer in layers)
    return replace(vectors.recommended, strength=vectors.recommended.strength * ratio)


def _delta_norm(vectors: SteeringVectors, layer: int) -> float:
    statistics = vectors.statistics[layer]
    return statistics.get("positive.delta_norm", 0.0) + statistics.get("negative.delta_norm", 0.0)
