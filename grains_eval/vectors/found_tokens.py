"""Found tokens: what attribution found becomes a token that the model can attend to.

Attribution proposes the most favourable tokens of each build prompt, transfer to the other prompts decides among them,
and those that remain are averaged, keys and values, into a virtual token.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import process_time
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, FiniteFloat

from grains_eval.attribution.selections import is_shared, of_modality, rank, shared_tokens, units
from grains_eval.attribution.transfer import Candidate, best_of_examples, transfer_statistics
from grains_eval.errors import NotApplicable
from grains_eval.recipes import Section, method_options, one_is_a_list
from grains_eval.types import Attribution, FoundTokens, TokenConfig, TokenPool, TokenSelection
from grains_eval.vectors.context import BuildContext
from grains_eval.vectors.registry import method
from grains_eval.vectors.transfer import each_alone, read_tokens, transfer
from grains_eval.virtual_tokens import ResolvedTokens

Pool = Literal["attribution", "random", "every"]
# tokens -> whether preserved development items are kept when each is shown
Harmless = Callable[[Sequence[ResolvedTokens]], list[bool]]


class Options(Section):
    """Options of `found_tokens` and of its controls."""

    candidates: Annotated[int, Field(ge=1)] = Field(default=3, description="candidates per side and example")
    max_document_frequency: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.25, description="a token in a larger share of the prompts is no candidate"
    )
    share: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.5, description="share of the examples, the best, whose best candidate joins the token"
    )
    alpha: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.05, description="level, adjusted for the number of candidates, below which something was found"
    )
    tokens: Annotated[int, Field(ge=1)] = Field(default=1, description="virtual tokens")
    strength: FiniteFloat = Field(default=0.0, description="log of the multiplicity; 0 is one token")
    layers: Annotated[Literal["all"] | list[int], BeforeValidator(one_is_a_list)] = "all"
    draw: Annotated[int, Field(ge=0)] = Field(default=0, description="number of the draw, for controls that draw")

    def setting(self) -> TokenConfig:
        """How the tokens are shown."""
        layers = None if self.layers == "all" else tuple(self.layers)
        return TokenConfig(layers, self.strength, self.tokens)


@dataclass(frozen=True)
class BuiltTokens:
    """Tokens with what stands behind them.

    Attributes:
        tokens: Both sides.
        attributions: One per example; empty where no candidate came from attribution.
        selections: The found token of each side, per example.
        notes: JSON values that join the provenance.
    """

    tokens: FoundTokens
    attributions: tuple[Attribution, ...] = ()
    selections: tuple[TokenSelection, ...] = ()
    notes: dict[str, Any] = field(default_factory=dict[str, Any])


@method("found_tokens", makes="tokens", is_attributing=True)
def found_tokens(
    context: BuildContext,
    harmless: Harmless | None = None,
    pool: Pool = "attribution",
    tested: bool = True,
    both_sides: bool = True,
) -> BuiltTokens:
    """Tokens that attribution proposes and transfer to other prompts selects, averaged into virtual ones.

    Args:
        context: The build.
        harmless: Says of virtual tokens whether preserved items are kept; None where the recipe preserves nothing.
        pool: Where candidates come from: the top ones by attribution, as many drawn at random from those that
            attribution ranks, or every token, template words too.
        tested: Whether transfer decides among them; without it every candidate joins the token.
        both_sides: Whether those that favour `y-` are wanted too; untested ones have no side.

    Raises:
        NotApplicable: no token qualifies, or none transfers: then there is nothing to find.
    """
    options = method_options(context.recipe, Options)
    attributions = _attributions(context) if pool == "attribution" else ()
    candidates = {
        sign: _candidates(context, options, pool, attributions, sign, tested)
        for sign in ((1.0, -1.0) if tested and both_sides else (1.0,))
    }
    if not candidates[1.0]:
        raise NotApplicable(
            "nothing to find: no prompt token qualified in any example; raise vectors.options.max_document_frequency "
            "or check the examples"
        )
    notes: dict[str, Any] = {}
    sides: dict[float, TokenPool | None] = {}
    chosen: dict[float, list[Candidate]] = {}
    for sign, own in candidates.items():
        sides[sign], chosen[sign] = None, []
        if not own:
            continue
        if not tested:
            sides[sign], chosen[sign] = read_tokens(context, own), own
            continue
        kept, statistics, report = _tested(context, options, own, sign, harmless if sign > 0 else None)
        notes["positive" if sign > 0 else "negative"] = report
        if kept:
            chosen[sign] = [own[index] for index in kept]
            sides[sign] = read_tokens(context, chosen[sign], [statistics[index] for index in kept])
    positive, negative = sides[1.0], sides.get(-1.0)
    if positive is None:
        raise NotApplicable(f"nothing to find: {notes['positive']['reason']}; no token is written")
    selections = tuple(
        TokenSelection(*(tuple(p for i, p in chosen.get(sign, ()) if i == index) for sign in (1.0, -1.0)))
        for index in range(len(context.examples))
    )
    return BuiltTokens(
        FoundTokens(positive, negative, options.setting()), tuple(attributions), selections, {"transfer": notes}
    )


def _attributions(context: BuildContext) -> list[Attribution]:
    config = context.recipe.attribution
    return [context.attribute(example, config) for example in context.progress(context.examples, "attribution")]


def _candidates(
    context: BuildContext,
    options: Options,
    pool: Pool,
    attributions: Sequence[Attribution],
    sign: float,
    tested: bool,
) -> list[Candidate]:
    """Positions per example that may join the token of one side."""
    shared = shared_tokens(context.examples, options.max_document_frequency)
    if pool == "attribution":
        config = context.recipe.attribution
        found: list[Candidate] = []
        for index, (scores, encoded) in enumerate(zip(attributions, context.examples, strict=True)):
            ranked = rank(scores, encoded, config, shared, options.candidates)
            found += [(index, position) for position in (ranked.positive if sign > 0 else ranked.negative)]
        return found
    found = []
    for index, encoded in enumerate(context.examples):
        may = of_modality(encoded, context.recipe.attribution.modality)
        if pool == "random":  # template words say nothing: a control that draws them would be easy to beat
            may = may & ~is_shared(encoded, shared)
        allowed = may.nonzero().flatten().tolist()
        if pool == "random":
            generator = random.Random(f"{context.recipe.seed} {options.draw} {index} {sign}")
            allowed = generator.sample(allowed, min(options.candidates if tested else 1, len(allowed)))
        found += [(index, position) for position in allowed]
    return found


def _tested(
    context: BuildContext, options: Options, candidates: list[Candidate], sign: float, harmless: Harmless | None
) -> tuple[list[int], list[float], dict[str, Any]]:
    """Indices of the candidates that are kept, the `t` of each candidate, and what was seen as JSON values."""
    started = process_time()
    alone = each_alone(read_tokens(context, candidates))
    tests = transfer_statistics(transfer(context, alone), candidates, units(context.examples), sign)
    statistics = [test.statistic for test in tests]
    best = min(range(len(tests)), key=lambda index: tests[index].p)
    adjusted = min(1.0, tests[best].p * len(tests))
    report: dict[str, Any] = {
        "candidates": len(tests),
        "largest_t": statistics[best],
        "adjusted_p": adjusted,
        "harmful": None if harmless is None else 0,
        "cpu_seconds": process_time() - started,
    }
    if adjusted > options.alpha:
        report["reason"] = (
            f"of {len(tests)} candidates none moved the preference of other examples (largest t "
            f"{statistics[best]:.2f}, adjusted p {adjusted:.2g}, above {options.alpha:g})"
        )
        return [], statistics, report
    barred: set[int] = set()
    if harmless is not None:
        hopeful = [index for index, value in enumerate(statistics) if value > 0]
        kept = harmless([alone[index] for index in hopeful])
        barred = {index for index, fine in zip(hopeful, kept, strict=True) if not fine}
        report["harmful"] = len(barred)
    kept = best_of_examples(candidates, statistics, len(context.examples), options.share, barred)
    if not kept:
        report["reason"] = f"each of the {len(barred)} candidates that moved other examples harmed preserved items"
    return kept, statistics, report
