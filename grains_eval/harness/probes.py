"""Which requests show whether contexts may be shared: the longest, and both sides of lengths that count.

No model here but its configuration. What a probe says is judged by `sharing.Proof`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grains_eval.harness.plan import Cluster, Tokens
from grains_eval.harness.stacking import Configuration

# parts of the names under which configurations keep lengths at which a model changes its ways
_LENGTHS = ("window", "position", "chunk", "length")


@dataclass(frozen=True)
class Probe:
    """A request that is scored in a plain pass over its whole row too.

    Attributes:
        owner: Index of the request.
        prompt: Tokens of its context.
        answer: Tokens of its continuation.
        plainly: Sum of the continuation's log-probabilities in a pass without cache, in nats. None asks for the
            row that the plain path would run; a token id puts that token where the answer's last one would be,
            which nothing that is read may see.
    """

    owner: int
    prompt: int
    answer: int
    plainly: Callable[[int | None], float]


@dataclass(frozen=True)
class Candidate:
    """A request as the plan runs it.

    Attributes:
        context: Tokens of the context, truncated.
        answer: Tokens of the continuation.
        owner: Index of the request.
        way: How it runs; what holds for one way says nothing of another.
    """

    context: Tokens
    answer: Tokens
    owner: int
    way: tuple[bool, bool] = (False, False)

    @property
    def fed(self) -> int:
        """Tokens of the row; nothing is read after the answer's last one."""
        return len(self.context) + len(self.answer) - 1


def mentioned_lengths(config: Any) -> list[int]:
    """Numbers of tokens at which a model of this (text) configuration may change its ways, ascending."""

    def walk(value: Any, inside: bool) -> Iterator[int]:
        if isinstance(value, Mapping):
            for key, item in value.items():  # pyright: ignore[reportUnknownVariableType]
                name = str(key)  # pyright: ignore[reportUnknownArgumentType]
                yield from walk(item, inside or name.startswith("rope") or any(part in name for part in _LENGTHS))
        elif inside and isinstance(value, int) and not isinstance(value, bool) and value > 1:
            yield value

    return sorted(set(walk(config.to_dict(), False)))


def candidates(clusters: Sequence[Cluster]) -> list[Candidate]:
    """Every request of the plan; where a context has answers that branch off it, those stand for all of its own."""
    found: list[Candidate] = []
    for each in clusters:
        for group in each.groups:
            branches = group.branches
            way = each.prefix > 0, bool(branches)
            for index in branches or range(len(group.continuations)):
                found.append(Candidate(group.context, group.continuations[index], group.owners[index], way))
    return found


def choose(given: Sequence[Candidate], lengths: Sequence[int]) -> list[Candidate]:
    """The longest request of every way, the shortest where it is much shorter, and those around each length.

    Args:
        given: All requests.
        lengths: See `mentioned_lengths`; one that all requests stay below adds nothing.
    """
    by_length = sorted(given, key=lambda each: (each.fed, len(each.answer)))
    if not by_length:
        return []
    found = list({each.way: each for each in by_length}.values())
    if 4 * by_length[0].fed <= by_length[-1].fed:  # where it costs little
        found.append(by_length[0])
    for length in lengths:
        below = [each for each in by_length if each.fed <= length]
        above = by_length[len(below) :]
        if above:
            crossing = next((each for each in above if len(each.context) <= length), None)
            found += [*below[-1:], above[0], *([] if crossing is None else [crossing])]
    return list({each.owner: each for each in found}.values())


def spread(configurations: Sequence[Configuration]) -> list[int]:
    """The unsteered configuration, if it is there, and the first of every kind of steering."""
    kinds: dict[frozenset[Any], int] = {}
    for index, each in enumerate(configurations):
        kinds.setdefault(frozenset((one.site, one.operator, one.positions) for one in each), index)
    return list(kinds.values())
