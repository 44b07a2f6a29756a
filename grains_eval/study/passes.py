"""The forward and backward passes of a build, counted without making them.

Follows `attribution.attribute`, `models.forward`, `models.embedding_check` and the methods in `vectors`; a test holds
the counts against those of real builds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from grains_eval.attribution.fidelity import DRAWS, LEFT_OUT, SHARES
from grains_eval.errors import GrainsError
from grains_eval.models.embedding_check import representative
from grains_eval.models.forward import shares_prefix, together
from grains_eval.models.layers import find_layers, mentioned_lengths, text_config
from grains_eval.models.sketch import Cost, Sketch
from grains_eval.recipes import Recipe
from grains_eval.study.lengths import Data, Lengths
from grains_eval.study.methods import leaves_open
from grains_eval.study.tune import grid
from grains_eval.types import SteeringVectors

# images that a visual baseline encodes besides the prompt's own
BASELINE_IMAGES = {"blank": 1, "position_mean": 8}


@dataclass(frozen=True)
class Run:
    """Rows through the decoder.

    Attributes:
        rows: How many.
        tokens: Of each.
        past: Tokens before them whose keys and values are cached.
        reads: Positions of each whose logits are made.
        backward: Whether a gradient is taken.
    """

    rows: int
    tokens: int
    past: int = 0
    reads: int = 0
    backward: bool = False

    def operations(self, cost: Cost) -> float:
        """Floating-point operations."""
        pairs = self.tokens * (self.past + self.tokens)
        one = self.tokens * cost.token + pairs * cost.pair + self.reads * cost.read
        if self.backward:
            one += self.tokens * cost.token_backward + pairs * cost.pair_backward + self.reads * cost.read
        return self.rows * one


@dataclass(frozen=True)
class Phase:
    """One step of a build.

    Attributes:
        name: Of the step.
        least: What it runs at least.
        most: What it runs at most, where that is not known before: quadrature nodes double until scores are complete.
    """

    name: str
    least: tuple[Run, ...]
    most: tuple[Run, ...]


def total(runs: Iterable[Run], *, backward: bool) -> int:
    """Rows that begin a prompt, with a gradient or without."""
    return sum(run.rows for run in runs if run.backward is backward and not run.past)


def tokens(runs: Iterable[Run]) -> int:
    """Tokens through the decoder."""
    return sum(run.rows * run.tokens for run in runs)


@dataclass(frozen=True)
class _Counter:
    """Counts the runs of one example.

    Attributes:
        shared: Whether a prompt is run once for both responses.
    """

    shared: bool

    def logprobs(self, one: Lengths, rows: int, backward: bool = False) -> list[Run]:
        """`models.forward.response_logprobs` on so many rows of prompt embeddings."""
        if not self.shared:
            cut = 0 if one.images else 1
            return [Run(rows, one.prompt + n - cut, reads=n, backward=backward) for n in one.responses]
        runs = [Run(rows, one.prompt, reads=sum(one.responses) - 1, backward=backward)]
        if max(one.responses) == 1:
            return runs
        for group in together([range(n) for n in one.responses]):
            longest = max(one.responses[index] for index in group) - 1
            runs.append(Run(rows * len(group), longest, one.prompt, backward=backward))
        return runs

    def prompt(self, one: Lengths, rows: int) -> list[Run]:
        """`models.activations.prompt_states`."""
        return [Run(rows, one.prompt, reads=1)]

    def after(self, one: Lengths, rows: int) -> list[Run]:
        """`models.activations.response_states` of both responses."""
        if not self.shared:
            return [Run(rows, one.prompt + n, reads=n + 1) for n in one.responses]
        return [run for n in one.responses for run in (Run(rows, one.prompt, reads=1), Run(rows, n, one.prompt))]

    def checked(self, one: Lengths) -> list[Run]:
        """`models.embedding_check.encode_all` on one of the examples that it compares."""
        plain = [Run(1, one.prompt, reads=one.prompt)]
        for n in one.responses:
            plain += [Run(1, one.prompt + n - cut, reads=one.prompt) for cut in ((0,) if one.images else (0, 1))]
        return [*plain, *self.logprobs(one, 1), *self.after(one, 1), *self.prompt(one, 1)]


def phases(recipe: Recipe, data: Data, drawn: Sketch) -> list[Phase]:
    """What a build of the recipe runs.

    Raises:
        GrainsError: a method whose passes are not known before it runs.
    """
    count = _Counter(shares_prefix(drawn.model))
    method = METHODS.get(recipe.vectors.method)
    if method is None:
        raise GrainsError(
            f"the passes of method '{recipe.vectors.method}' are not known before it runs; --estimate knows "
            f"{', '.join(METHODS)}"
        )
    found = [_encoding(recipe, data, count, drawn), *method(recipe, data.build, count)]
    if leaves_open(recipe):
        found.append(_tuning(recipe, data, len(find_layers(drawn.model))))
    return [phase for phase in found if phase.most]


def _encoding(recipe: Recipe, data: Data, count: _Counter, drawn: Sketch) -> Phase:
    """Images into embeddings, and some examples compared with the plain model."""
    chosen = representative([one.stand_in() for one in data.build], mentioned_lengths(text_config(drawn.model)))
    runs: list[Run] = []
    for one in data.build:
        if one.images:
            runs.append(Run(1 + BASELINE_IMAGES.get(recipe.attribution.visual_baseline, 0), one.prompt, reads=1))
    for index in chosen:
        runs += count.checked(data.build[index])
    return Phase("encoding and check", tuple(runs), tuple(runs))


def _attribution(recipe: Recipe, examples: Sequence[Lengths], count: _Counter) -> Phase:
    config = recipe.attribution
    count = replace(count, shared=count.shared and config.share_prefix)
    least = min(config.steps, config.max_steps)
    nodes = {"integrated_gradients": least, "gradient": 1, "smoothgrad": config.samples, "random": 0}
    if config.method not in nodes:
        raise GrainsError(
            f"the passes of attribution '{config.method}' are not known; --estimate knows {', '.join(nodes)}"
        )
    rounds = [nodes[config.method]]
    if config.method == "integrated_gradients":
        while 2 * rounds[-1] <= config.max_steps:
            rounds.append(2 * rounds[-1])

    def runs(rows: Sequence[int]) -> tuple[Run, ...]:
        return tuple(
            run
            for one in examples
            for part in (count.logprobs(one, 2), *(count.logprobs(one, n, backward=True) for n in rows if n))
            for run in part
        )

    return Phase("attribution", runs(rounds[:1]), runs(rounds))


def _selection(recipe: Recipe, examples: Sequence[Lengths], count: _Counter) -> Phase:
    """What choosing tokens runs besides: nothing for the largest scores."""
    config = recipe.attribution
    several = config.candidates or 3 * config.top_k
    runs: list[Run] = []
    candidates = [min(several, one.prompt) for one in examples]
    if config.selection == "agreement":
        for one, tried in zip(examples, candidates, strict=True):
            runs += 2 * count.prompt(one, 1 + tried)
    elif config.selection == "transfer":
        tried = replace(count, shared=count.shared and config.share_prefix)
        for one in examples:
            runs += [Run(2, one.prompt, reads=1), *tried.logprobs(one, 2 * (1 + sum(candidates)))]
    elif config.selection != "top_k":
        raise GrainsError(f"the passes of selection '{config.selection}' are not known before it runs")
    return Phase("selection", (), tuple(runs))


def _grains(recipe: Recipe, examples: Sequence[Lengths], count: _Counter) -> list[Phase]:
    contrast: list[Run] = []
    greyed: list[Run] = []
    for one in examples:
        contrast += count.prompt(one, 3)
        if recipe.vectors.at == "response":
            contrast += count.after(one, 3)
        if recipe.vectors.mask == "pixel" and one.images:
            greyed.append(Run(2, one.prompt, reads=1))
    found = [_attribution(recipe, examples, count), _selection(recipe, examples, count)]
    contrasted = Phase("masked contrast", tuple(contrast), (*contrast, *greyed))
    return [*found, contrasted, _fidelity(recipe, examples, count)]


def _fidelity(recipe: Recipe, examples: Sequence[Lengths], count: _Counter) -> Phase:
    """`study.fidelity`: sets of tokens removed and kept, by the attribution's ranking and random ones, and single ones.

    At most: how many tokens may be removed shows in the prompts.
    """
    config = recipe.attribution
    count = replace(count, shared=count.shared and config.share_prefix)
    sets = 1 + 2 * (1 + DRAWS) * len(SHARES)
    runs: list[Run] = []
    for one in examples[: config.fidelity_examples]:
        for tokens_of in (one.prompt - one.visual, one.visual):  # text and images are ranked among themselves
            if tokens_of > 1:
                runs += count.logprobs(one, sets + min(LEFT_OUT, tokens_of))
        if greyed := _greyed_for_fidelity(recipe, one):
            runs.append(Run(greyed, one.prompt, reads=1))
    return Phase("fidelity of the attributions", (), tuple(runs))


def _greyed_for_fidelity(recipe: Recipe, one: Lengths) -> int:
    """How often at most an example's images are encoded anew with patches greyed: once a set but the empty one."""
    if recipe.vectors.mask != "pixel" or one.visual < 2:
        return 0
    return 2 * (1 + DRAWS) * len(SHARES) + min(LEFT_OUT, one.visual)


def image_encodings(recipe: Recipe, examples: Sequence[Lengths]) -> list[tuple[int, int]]:
    """How often the images of each example pass the vision tower, at least and at most."""
    once = 1 + BASELINE_IMAGES.get(recipe.attribution.visual_baseline, 0)
    found: list[tuple[int, int]] = []
    for index, one in enumerate(examples):
        more = 0
        if METHODS.get(recipe.vectors.method) in (_grains, _random_tokens) and recipe.vectors.mask == "pixel":
            more = 2 + (index < recipe.attribution.fidelity_examples) * _greyed_for_fidelity(recipe, one)
        found.append((once, once + more))
    return found


def _random_tokens(recipe: Recipe, examples: Sequence[Lengths], count: _Counter) -> list[Phase]:
    changed = recipe.attribution.model_copy(update={"method": "random", "selection": "top_k"})
    return _grains(recipe.model_copy(update={"attribution": changed}), examples, count)


def _responses(recipe: Recipe, examples: Sequence[Lengths], count: _Counter) -> list[Phase]:
    del recipe
    runs = tuple(run for one in examples for run in (*count.prompt(one, 1), *count.after(one, 1)))
    return [Phase("responses", runs, runs)]


def _norms(recipe: Recipe, examples: Sequence[Lengths], count: _Counter) -> list[Phase]:
    del recipe
    runs = tuple(run for one in examples for run in count.prompt(one, 1))
    return [Phase("token norms", runs, runs)]


METHODS: Mapping[str, Callable[[Recipe, Sequence[Lengths], _Counter], list[Phase]]] = {
    "grains": _grains,
    "negated": _grains,
    "random_tokens": _random_tokens,
    **dict.fromkeys(("caa", "icv", "iti", "nl_iti"), _responses),
    **dict.fromkeys(("random", "vocabulary"), _norms),
}


def _tuning(recipe: Recipe, data: Data, depth: int) -> Phase:
    """Development items under every setting; layers below the first steered one are in fact run once for all."""
    layers = {layer: torch.zeros(1) for layer in range(depth)}
    settings = 1 + len(grid(SteeringVectors(layers, dict.fromkeys(layers, 1.0)), recipe))
    asked = [(one.prompt, one.responses) for one in data.development] + list(data.preserved)
    runs: list[Run] = []
    for prompt, answers in asked:
        runs.append(Run(settings, prompt, reads=1))
        runs += [Run(settings, n - 1, prompt, reads=n - 1) for n in answers if n > 1]
    return Phase(f"choosing among {settings - 1} settings", (), tuple(runs))
