"""Which requests show whether contexts may be shared: the longest, and those on both sides of lengths that matter.

Of the model only its configuration is needed. What a probe shows is judged by `proof.Proof`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from grains_eval.harness.prefix_sharing.configurations import Configuration
from grains_eval.harness.prefix_sharing.plan import PrefixGroup, Tokens
from grains_eval.steering import ResolvedSteering
from grains_eval.virtual_tokens import ResolvedTokens


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
        way: How it runs; what holds for one way says nothing about another. It is made of the mentioned lengths between
            which the prefix shared with other contexts lies (0 without one), and whether its answer branches off.
        row: Tokens of its context's row, which may take in another answer.
    """

    context: Tokens
    answer: Tokens
    owner: int
    way: tuple[int, bool]
    row: int

    @property
    def fed(self) -> int:
        """Tokens of the row; nothing is read after the answer's last one."""
        return len(self.context) + len(self.answer) - 1


def candidates(prefix_groups: Sequence[PrefixGroup], lengths: Sequence[int]) -> list[Candidate]:
    """Every request of the plan; where a context has answers that branch off it, those stand for all of its own.

    Args:
        prefix_groups: The plan.
        lengths: See `mentioned_lengths`.
    """
    found: list[Candidate] = []
    for each in prefix_groups:
        prefix = 1 + bisect_left(lengths, each.prefix) if each.prefix else 0
        for group in each.groups:
            branches = group.branches
            way = prefix, bool(branches)
            for index in branches or range(len(group.continuations)):
                answer, owner = group.continuations[index], group.owners[index]
                found.append(Candidate(group.context, answer, owner, way, len(group.row)))
    return found


def choose(given: Sequence[Candidate], lengths: Sequence[int]) -> list[Candidate]:
    """For every way the longest request, the shortest where it is much shorter, and those around each length.

    The longest whose answer feeds most is among them too: nothing, one token (which needs no mask) or several are fed
    of an answer. Those around a length are the last below it, the one whose context's row is nearest below (it may run
    beside longer rows), the first above it and the first whose answer crosses it.

    Args:
        given: All requests.
        lengths: See `mentioned_lengths`; one that all requests of a way stay below adds nothing to it.
    """
    by_way: dict[tuple[int, bool], list[Candidate]] = {}
    for each in sorted(given, key=lambda each: (each.fed, len(each.answer))):
        by_way.setdefault(each.way, []).append(each)
    found: list[Candidate] = []
    for by_length in by_way.values():
        found += [by_length[-1], max(reversed(by_length), key=lambda each: fed_kind(len(each.answer)))]
        if 4 * by_length[0].fed <= by_length[-1].fed:  # where it costs little
            found.append(by_length[0])
        for length in lengths:
            below = [each for each in by_length if each.fed <= length]
            above = by_length[len(below) :]
            if above:
                beside = [max(below, key=lambda each: (each.row, each.fed))] if below else []
                crossing = [each for each in above if len(each.context) <= length][:1]
                found += [*below[-1:], *beside, above[0], *crossing]
    return list({each.owner: each for each in found}.values())


def fed_kind(tokens: int) -> int:
    """How an answer of so many tokens is fed after its context: not at all (1), one token (2) or several (3)."""
    return min(tokens, 3)


def spread(configurations: Sequence[Configuration]) -> list[int]:
    """The unsteered configuration, if it is there, and the first of every kind of steering."""
    kinds: dict[frozenset[Any], int] = {}
    for index, each in enumerate(configurations):
        kinds.setdefault(frozenset(map(_kind, each)), index)
    return list(kinds.values())


def _kind(steering: ResolvedSteering | ResolvedTokens) -> tuple[Any, ...]:
    if isinstance(steering, ResolvedTokens):
        return (ResolvedTokens, steering.count)
    return steering.site, steering.operator, steering.positions
