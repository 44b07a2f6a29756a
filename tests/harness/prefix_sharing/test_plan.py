"""Grouping, truncation, shared prefixes and batches, without a model."""

from __future__ import annotations

import random

import pytest

from grains_eval.errors import GrainsError
from grains_eval.harness.prefix_sharing.plan import Group, Limits, batches, chunks, group, group_by_prefix, truncate


def groups(*contexts, answers=((1, 2), (3, 4))):
    return [Group(tuple(context), answers, tuple(range(len(answers)))) for context in contexts]


@pytest.mark.parametrize("context", [1, 3, 7, 20])
@pytest.mark.parametrize("answer", [1, 2, 8])
def test_truncation_is_lm_evals(context, answer):
    limit = 8
    tokens, continuation = list(range(context)), list(range(100, 100 + answer))
    kept = (tokens + continuation)[-(limit + 1) :]
    assert list(truncate(tokens, continuation, limit)) + continuation == kept


def test_truncation_refuses_what_cannot_be_scored():
    with pytest.raises(GrainsError, match="9 tokens, the model takes 8"):
        truncate([1], [2] * 9, 8)
    for context, continuation in ([], [1]), ([1], []):
        with pytest.raises(GrainsError, match="empty"):
            truncate(context, continuation, 8)


def test_only_equal_truncated_contexts_share():
    long = list(range(20))
    asked = [(long, [1]), (long, [1, 2]), (long, [1, 2]), (long[1:], [1])]
    found, owners = group(asked, 10)
    # first and last are equal after truncation, the second is cut one token shorter, the third repeats it
    assert [(len(each.context), each.owners) for each in found] == [(10, (0,)), (9, (1,))]
    assert owners == [0, 1, 1, 0]


def test_a_lone_longer_continuation_follows_in_its_contexts_row():
    lone = Group((5, 6), ((1,), (1, 2, 3)), (0, 1))
    assert lone.tail == 1 and lone.row == (5, 6, 1, 2) and lone.branches == []
    two = Group((5, 6), ((1,), (1, 2), (3, 4)), (0, 1, 2))
    assert two.tail is None and two.row == (5, 6) and two.branches == [1, 2]


def test_preambles_are_found_and_short_ones_left():
    draw = random.Random(0)

    def tokens(count):
        return [draw.randrange(1000) for _ in range(count)]

    first, second = tokens(60), tokens(80)
    opening = tokens(10)
    contexts = [opening + first + tokens(5) for _ in range(30)] + [opening + second + tokens(9) for _ in range(30)]
    alone = [tokens(50) for _ in range(6)]
    draw.shuffle(contexts)
    found = group_by_prefix(groups(*contexts, *alone))
    assert sorted((each.prefix, len(each.groups)) for each in found) == [(0, 6), (70, 30), (90, 30)]
    for each in found:
        assert len({one.context[: each.prefix] for one in each.groups}) == 1
    # a handful of contexts does not pay for a pass of its own
    assert [each.prefix for each in group_by_prefix(groups(*contexts[:2]))] == [0]


def test_the_last_context_token_is_never_in_the_prefix():
    chain = [list(range(length)) for length in range(40, 80)]
    for each in group_by_prefix(groups(*chain)):
        assert each.prefix < min(len(one.context) for one in each.groups)


def test_batches_and_chunks_keep_within_the_limits():
    draw = random.Random(1)
    made = groups(*(range(1000 * i, 1000 * i + draw.randrange(1, 40)) for i in range(50)))
    limits = Limits(tokens=64, reach=500, logits=2000)
    seen = []
    for batch in batches(made, 0, limits):
        width = max(len(each.row) for each in batch)
        assert len(batch) == 1 or (len(batch) * width <= 64 and len(batch) * width <= 500)
        for chunk in chunks(batch, width, limits, vocabulary=100):
            cells = len(chunk) * max(len(each.tokens) - 1 for each in chunk)
            assert len(chunk) == 1 or (cells <= 64 and cells * 100 <= 2000)
        seen += batch
    assert sorted(each.context for each in seen) == sorted(each.context for each in made)
    lengths = [len(each.row) for each in seen]
    assert lengths == sorted(lengths, reverse=True)
