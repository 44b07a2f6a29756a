"""The controls beside found tokens, written as artifacts that are shown with the tokens' own setting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from grains_eval.artifacts.layout import ArtifactContents, fingerprint
from grains_eval.artifacts.load import open_artifact
from grains_eval.artifacts.save import save_artifact
from grains_eval.errors import GrainsError
from grains_eval.study.build import watched
from grains_eval.study.cache import build_context_with_cache
from grains_eval.study.controls import Controls
from grains_eval.study.methods import Variant, harmless
from grains_eval.study.session import Session
from grains_eval.types import FoundTokens
from grains_eval.vectors.found_tokens import Pool, found_tokens
from grains_eval.vectors.token_controls import other_side, random_like, vocabulary

OTHER_SIDE, VOCABULARY, EVERY = "other_side_tokens", "vocabulary_kv", "every_token_control"


def write_token_controls(method: str, variant: Variant, session: Session, folder: Path) -> Controls:
    """Write the controls of found tokens; one that is there already and stands beside the same tokens is kept.

    Tokens of the other side; random keys and values of equal norm; the found key with a random value; key and value of
    the answers' words; blind tokens (drawn, untested); random candidates and then transfer; every token and then
    transfer, which needs no attribution and costs a pass per token.

    Args:
        method: The method's name.
        variant: Its recipe, artifact and examples.
        session: An opened session.
        folder: Where the controls' folders go.
    """
    found, recipe, examples = tokens_of(variant.folder), variant.recipe, variant.examples
    context = build_context_with_cache(session.loaded, examples.build, recipe, None, session.progress)
    development = watched(session.loaded, examples, recipe, session.include_path)
    draws = range(recipe.evaluation.control_draws)

    def made(pool: Pool, tested: bool, draw: int = 0) -> FoundTokens:
        options = {**recipe.vectors.options, "draw": draw}
        vectors = recipe.vectors.model_copy(update={"options": options})
        own = replace(context, recipe=recipe.model_copy(update={"vectors": vectors}))
        built = found_tokens(own, harmless(own, development), pool, tested, both_sides=False)
        count = min(found.recommended.tokens, len(built.tokens.positive.origins))
        setting = replace(found.recommended, tokens=count)
        return replace(built.tokens, recommended=setting, provenance={**found.provenance, **built.notes})

    bands: dict[str, dict[str, Callable[[], FoundTokens]]] = {
        "blind tokens": {f"blind_tokens_{d + 1}": lambda d=d: made("random", False, d) for d in draws},
        "random keys and values": {
            f"random_kv_{d + 1}": lambda d=d: random_like(found, recipe.seed + d) for d in draws
        },
        "found key, random value": {
            f"own_key_random_value_{d + 1}": lambda d=d: random_like(found, recipe.seed + d, keys=False) for d in draws
        },
        "random pool, then transfer": {f"random_pool_{d + 1}": lambda d=d: made("random", True, d) for d in draws},
    }
    singles: dict[str, Callable[[], FoundTokens]] = {
        OTHER_SIDE: lambda: other_side(found),
        VOCABULARY: lambda: vocabulary(context, found),
        EVERY: lambda: made("every", True),
    }
    beside = {"beside": fingerprint(found), "recipe_hash": recipe.fingerprint()}
    notes: list[str] = []
    written: set[str] = set()
    for name, make in [*singles.items(), *(pair for each in bands.values() for pair in each.items())]:
        place = folder / name
        if place.exists():
            origin = open_artifact(place).provenance
            if all(origin.get(key) == value for key, value in beside.items()):
                written.add(name)
                continue
        try:
            tokens = make()
        except GrainsError as error:  # a pool in which nothing transfers is a result
            notes.append(f"{name}: left out, {error}")
            continue
        origin = {**found.provenance, **tokens.provenance, **beside, "method": name, "kind": "control"}
        contents = ArtifactContents(tokens=tokens, provenance={**origin, "chosen_by": f"as for {method}"})
        save_artifact(contents, place, overwrite=True)
        written.add(name)
    kept = {label: tuple(name for name in each if name in written) for label, each in bands.items()}
    if EVERY in written:
        notes.append(_cost(method, found, open_artifact(folder / EVERY).provenance))
    names = (*singles, *(name for each in bands.values() for name in each))
    return Controls(
        tuple(name for name in names if name in written),
        {label: names for label, names in kept.items() if names},
        {method: tuple(name for name in names if name in written)},
        (f"token controls stand beside {method}, at its setting", *notes),
    )


def tokens_of(artifact: Path) -> FoundTokens:
    """The found tokens of a folder.

    Raises:
        GrainsError: it holds something else.
    """
    found = open_artifact(artifact).tokens
    if found is None:
        raise GrainsError(f"'{artifact}' holds no found tokens")
    return found


def _cost(method: str, found: FoundTokens, every: Mapping[str, Any]) -> str:
    """What the tests cost, with and without attribution."""
    ours, theirs = (origin.get("transfer", {}).get("positive", {}) for origin in (found.provenance, every))
    if not ours or not theirs:
        return f"{EVERY}: its cost was not measured"
    return (
        f"{EVERY} tested {theirs['candidates']} candidates of the preferred side in {theirs['cpu_seconds']:.1f} CPU "
        f"seconds, {method} {ours['candidates']} in {ours['cpu_seconds']:.1f}, attribution not included"
    )
