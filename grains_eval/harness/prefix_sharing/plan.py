"""Which requests share what: contexts, prefixes of contexts, and batches that fit. Needs no model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from grains_eval.errors import GrainsError

Tokens = tuple[int, ...]

# tokens that a shared prefix must save to be worth a forward pass of its own
_PASS_COST = 128
# levels of nested prefixes that are considered
_DEEPEST = 64


@dataclass(frozen=True)
class Group:
    """A context and what is scored after it.

    Attributes:
        context: Its tokens after truncation, at least one.
        continuations: Their tokens, at least one each.
        owners: Index of the request of each continuation.
        extendable: Whether the context's row may take a continuation in; a prepared context is as it is.
    """

    context: Tokens
    continuations: tuple[Tokens, ...]
    owners: tuple[int, ...]
    extendable: bool = field(default=True, kw_only=True)

    @property
    def tail(self) -> int | None:
        """The only continuation of several tokens, which then simply follows its context in one row."""
        longer = [index for index, tokens in enumerate(self.continuations) if len(tokens) > 1]
        return longer[0] if len(longer) == 1 and self.extendable else None

    @property
    def branches(self) -> list[int]:
        """Continuations that need rows of their own (a single token is read off the context)."""
        if self.tail is not None:
            return []
        return [index for index, tokens in enumerate(self.continuations) if len(tokens) > 1]

    @property
    def row(self) -> Tokens:
        """The tokens of the context's row."""
        return self.context if self.tail is None else self.context + self.continuations[self.tail][:-1]


@dataclass(frozen=True)
class PrefixGroup:
    """Groups whose contexts start with the same `prefix` tokens; every context is longer than that."""

    prefix: int
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class Limits:
    """How much one forward pass may hold.

    Attributes:
        tokens: Tokens, padding and all configurations included.
        reach: Rows times the keys that each of them sees.
        logits: Elements of the logits.
    """

    tokens: int
    reach: int
    logits: int

    def halved(self) -> Limits:
        """Half of everything."""
        return self.shared(2)

    def shared(self, size: int) -> Limits:
        """What is left for each of `size` configurations that run together."""
        return Limits(max(1, self.tokens // size), max(1, self.reach // size), max(1, self.logits // size))

    @property
    def smallest(self) -> bool:
        """Whether it cannot be halved further."""
        return self.tokens == 1


def truncate(context: Sequence[int], continuation: Sequence[int], max_length: int) -> Tokens:
    """The context as lm-eval truncates it: `(context + continuation)[-(max_length + 1):]` less the continuation.

    Raises:
        GrainsError: nothing to condition on or to score, or a continuation that does not fit.
    """
    if not context or not continuation:
        raise GrainsError("a request has an empty context or continuation; both need at least one token")
    if len(continuation) > max_length:
        raise GrainsError(
            f"a continuation has {len(continuation)} tokens, the model takes {max_length}; raise max_length"
        )
    return tuple(context[-(max_length + 1 - len(continuation)) :])


def group(requests: Sequence[tuple[Sequence[int], Sequence[int]]], max_length: int) -> tuple[list[Group], list[int]]:
    """Group requests by truncated context and score repeated ones once.

    Returns:
        The groups, and per request the index of the request that is scored for it.
    """
    first: dict[tuple[Tokens, Tokens], int] = {}
    found: dict[Tokens, list[tuple[Tokens, int]]] = {}
    owners: list[int] = []
    for index, (context, continuation) in enumerate(requests):
        key = truncate(context, continuation, max_length), tuple(continuation)
        owner = first.setdefault(key, index)
        owners.append(owner)
        if owner == index:
            found.setdefault(key[0], []).append((key[1], index))
    groups = [Group(context, *map(tuple, zip(*items, strict=True))) for context, items in found.items()]
    return groups, owners


def group_by_prefix(groups: Sequence[Group]) -> list[PrefixGroup]:
    """Gather groups whose contexts start alike (a few-shot preamble, an instruction), where that saves work.

    Sorted contexts are cut where neighbours share least, as long as the parts together save more than the
    whole.
    """
    ordered = sorted(groups, key=lambda item: item.context)
    # the last context token stays out: its logits are wanted, and `last` means it
    common = [0]
    common += [
        min(_common(left.context, right.context), len(left.context) - 1, len(right.context) - 1)
        for left, right in pairwise(ordered)
    ]
    _, cuts = _best_cuts(common, 0, len(ordered), 0)
    alone = [each for start, end, prefix in cuts if not prefix for each in ordered[start:end]]
    found = [PrefixGroup(prefix, tuple(ordered[start:end])) for start, end, prefix in cuts if prefix]
    return found + ([PrefixGroup(0, tuple(alone))] if alone else [])


def _best_cuts(common: list[int], start: int, end: int, depth: int) -> tuple[int, list[tuple[int, int, int]]]:
    """Tokens saved in `start:end` and the `(start, end, prefix)` that save them.

    `common[i]` is what item `i` shares with the one before; every prefix pass is charged `_PASS_COST` tokens.
    """
    least = min(common[start + 1 : end], default=0)
    saved = max(0, (end - start - 1) * least - _PASS_COST)
    whole = saved, [(start, end, least if saved else 0)]
    if end - start < 3 or depth == _DEEPEST:
        return whole
    edges = [start, *(i for i in range(start + 1, end) if common[i] == least), end]
    parts = [_best_cuts(common, left, right, depth + 1) for left, right in pairwise(edges)]
    total = sum(value for value, _ in parts)
    # contexts that stay together fill batches better, so parts must save clearly more
    return whole if 4 * total <= 5 * saved else (total, [cut for _, cuts in parts for cut in cuts])


def _common(left: Tokens, right: Tokens) -> int:
    """Length of the common prefix, by bisection on slices."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if left[:middle] == right[:middle] else (low, middle - 1)
    return low


def batches(groups: Sequence[Group], prefix: int, limits: Limits) -> Iterator[list[Group]]:
    """Contexts that run together, longest first; rows are padded to the longest."""
    batch: list[Group] = []
    reach = limits.reach
    for each in sorted(groups, key=lambda item: -len(item.row)):
        width = len((batch or [each])[0].row)
        rows = len(batch) + 1
        if batch and (rows * (width - prefix) > limits.tokens or rows * width > reach):
            yield batch
            batch = []
        batch.append(each)
    if batch:
        yield batch


@dataclass(frozen=True)
class Branch:
    """A continuation with a row of its own after context `parent` of its batch."""

    parent: int
    tokens: Tokens
    owner: int


def chunks(groups: Sequence[Group], reach: int, limits: Limits, vocabulary: int) -> Iterator[list[Branch]]:
    """Branches that run together, after contexts of up to `reach` tokens."""
    chunk: list[Branch] = []
    width = 0
    for parent, each in enumerate(groups):
        for index in each.branches:
            branch = Branch(parent, each.continuations[index], each.owners[index])
            rows, wider = len(chunk) + 1, max(width, len(branch.tokens) - 1)
            cells = rows * wider
            full = cells > limits.tokens or rows * (reach + wider) > limits.reach or cells * vocabulary > limits.logits
            if chunk and full:
                yield chunk
                chunk, wider = [], len(branch.tokens) - 1
            chunk.append(branch)
            width = wider
    if chunk:
        yield chunk
