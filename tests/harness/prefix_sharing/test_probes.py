"""Which requests are scored both ways."""

from __future__ import annotations

from grains_eval.harness.prefix_sharing.plan import Group, PrefixGroup
from grains_eval.harness.prefix_sharing.probes import Candidate, candidates, choose, spread
from tests.harness.prefix_sharing.test_loglikelihood import steering


def candidate(context, answer, way=(0, True), row=0):
    return Candidate((3,) * context, (4,) * answer, 1000 * context + answer, way, row or context)


def test_probes_are_the_longest_and_those_around_each_length():
    given = [candidate(context, answer) for context in (10, 20, 30, 61, 70) for answer in (2, 4, 8)]
    sizes = {(len(each.context), len(each.answer)) for each in choose(given, [])}
    assert sizes == {(70, 8), (10, 2)}
    sizes = {(len(each.context), len(each.answer)) for each in choose(given, [64, 5000])}
    assert sizes == {(70, 8), (10, 2), (61, 4), (61, 8)}  # 64 and 68 tokens are fed
    alike = [candidate(20, 4), candidate(21, 4), candidate(20, 4, (1, True))]
    assert {each.way for each in choose(alike, [])} == {(0, True), (1, True)}
    assert len(choose(alike, [])) == 2 and choose([], [64]) == []


def test_no_way_hides_what_another_would_show():
    below, above = (1, True), (2, True)
    given = [candidate(63, 3), candidate(64, 4), candidate(66, 4, below), candidate(73, 4, below)]
    given += [candidate(110, 4, above), candidate(115, 4, above)]
    sizes = {(each.way, len(each.context)) for each in choose(given, [64])}
    assert {((0, True), 64), (below, 66), (below, 73), (above, 115)} <= sizes
    # a short answer whose context's row another answer makes long
    tail = [candidate(60, 1, (0, False), 69), candidate(60, 10, (0, False), 69), candidate(63, 1, (0, False))]
    assert any((len(each.context), len(each.answer)) == (60, 1) for each in choose(tail, [64]))


def test_a_longer_request_hides_no_answer_that_feeds_more():
    single, double, several = (candidate(60 - 10 * n, n, (0, False)) for n in (1, 2, 5))
    assert choose([single, double, several, candidate(9, 5, (0, False), 99)], []) == [single, several]
    assert choose([single, double], []) == [single, double] and choose([single], []) == [single]
    longest = candidate(60, 5, (0, False))
    assert choose([longest, double], []) == [longest]


def test_a_way_says_where_its_beginning_lies_among_the_lengths():
    group = Group((5, 6), ((1, 2), (3, 4)), (0, 1))
    found = candidates([PrefixGroup(prefix, (group,)) for prefix in (0, 48, 64, 90)], [64, 100])
    assert [each.way for each in found[::2]] == [(0, True), (1, True), (1, True), (2, True)]


def test_branches_stand_for_the_answers_that_are_read_off_their_context():
    branching = Group((5, 6), ((1,), (1, 2), (3, 4)), (0, 1, 2))
    single = Group((7, 8), ((1,), (2,)), (3, 4))
    found = candidates([PrefixGroup(1, (branching,)), PrefixGroup(0, (single,))], [])
    assert [(each.owner, each.way) for each in found] == [
        (1, (True, True)),
        (2, (True, True)),
        (3, (False, False)),
        (4, (False, False)),
    ]


def test_one_configuration_of_every_kind_is_compared(loaded_text):
    model = loaded_text("llama").model
    wanted = [
        (steering(model, [0], 1.0),),
        (),
        (steering(model, [1], 2.0),),
        (steering(model, [1], 2.0, positions="last"),),
        (steering(model, [1], 1.0, site="attention_heads"),),
    ]
    assert spread(wanted) == [0, 1, 3, 4]
