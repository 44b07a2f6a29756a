"""Betting on bounded scores: monotone p-values by construction, intervals that are their inversion, promised power."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from grains_eval.comparison import betting
from grains_eval.comparison.betting import BoundedMean, log_capital
from grains_eval.comparison.intervals import paired
from grains_eval.comparison.power import betting_power

TARGET = math.log(2 / 0.05)


def _adversarial(generator: np.random.Generator, n: int) -> list[np.ndarray]:
    """Values at their bounds in runs, where the capital jumps furthest."""
    return [
        generator.choice([-1.0, 1.0], n),
        np.repeat([-1.0, 1.0], [n // 2, n - n // 2]),
        np.repeat([0.05, -1.0, 1.0], [n // 3, n // 3, n - 2 * (n // 3)]),
        np.where(generator.random(n) < 0.1, generator.choice([-1.0, 1.0], n), 0.02),
        np.r_[generator.normal(0.1, 0.02, n - n // 4), np.ones(n // 4)],
    ]


@pytest.mark.parametrize("n", [2, 7, 40, 300])
def test_capital_falls_as_the_hypothesis_rises_whatever_the_values(n: int) -> None:
    generator = np.random.default_rng(n)
    values = np.stack([row for _ in range(20) for row in _adversarial(generator, n)])
    hypotheses = np.linspace(-1 + 1e-9, 1, 800)[None, :]
    found = log_capital(values, np.repeat(hypotheses, len(values), axis=0), TARGET)
    assert np.diff(found, axis=1).max() <= 1e-9
    # and the capital is a capital: it is never lost, and not the same for every hypothesis
    assert np.isfinite(found).all() and np.mean(found[:, 0] > found[:, -1]) > 0.8


@pytest.mark.parametrize("n", [5, 60, 400])
@pytest.mark.parametrize("level", [0.5, 0.05, 0.001])
def test_an_interval_is_the_inversion_of_its_tests(n: int, level: float) -> None:
    generator = np.random.default_rng([n, 3])
    for values in [*_adversarial(generator, n), np.clip(generator.normal(0.1, 0.3, n), -1, 1)]:
        procedure = BoundedMean(generator.permutation(values) * 2, 2.0, 0.05)
        low, high = procedure.interval(level)
        step = 1e-5
        if low == high:  # early items spoke for one side and later ones for the other: both reject all between
            assert max(procedure.tails(low)) <= level / 2
            continue
        if low > -2:
            assert procedure.tails(low - step)[0] <= level / 2 < procedure.tails(low + step)[0]
        else:
            assert procedure.tails(-2.0)[0] > level / 2
        if high < 2:
            assert procedure.tails(high + step)[1] <= level / 2 < procedure.tails(high - step)[1]


def test_both_sides_are_mirror_images() -> None:
    values = np.clip(np.random.default_rng(1).normal(0.1, 0.3, 80), -1, 1)
    one, other = BoundedMean(values, 1.0, 0.05), BoundedMean(-values, 1.0, 0.05)
    assert one.tails(0.03) == other.tails(-0.03)[::-1]
    low, high = one.interval(0.05)
    assert other.interval(0.05) == pytest.approx((-high, -low), abs=1e-6)


def test_the_capital_is_a_fair_game() -> None:
    """Against the true mean it cannot be expected to grow, also where rare losses balance many small gains."""
    generator = np.random.default_rng(5)
    values = np.where(generator.random((20_000, 40)) < 0.05, -0.95, 0.05)
    truth = 0.95 * 0.05 - 0.05 * 0.95
    grown = np.exp(log_capital(values, np.full((20_000, 1), truth), TARGET))[:, 0]
    for level in (0.2, 0.05, 0.01):
        assert np.mean(grown >= 1 / level) <= level + 3 * math.sqrt(level * (1 - level) / 20_000)


def test_more_items_than_are_bet_on_one_by_one_go_in_groups() -> None:
    values = np.clip(np.random.default_rng(2).normal(0.01, 0.1, 60_000), -1, 1)
    low, high = BoundedMean(values, 1.0, 0.05).interval(0.05)
    error = 0.1 / math.sqrt(60_000)
    assert low < 0.01 < high and high - low < 2 * 3 * error


DRAWS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": lambda g, n: g.normal(0, 0.1, n),
    "uniform": lambda g, n: 0.6 * (g.random(n) - g.random(n)),
    "few move": lambda g, n: np.where(g.random(n) < 0.1, g.choice([-1, 1], n) * g.uniform(0.1, 0.8, n), 0.0),
    "long tail": lambda g, n: 0.06 - np.minimum(g.exponential(0.06, n), 0.9),
}


@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("name", DRAWS)
def test_detectable_effects_are_found_with_their_power_at_holms_first_step(name: str, rows: int) -> None:
    """Each sample's own effect, in fresh samples of either sign; fresh seeds for each, so that none is fitted."""
    level, n, found = 0.05 / rows, 300, []
    for seed in range(25):
        generator = np.random.default_rng([seed, rows])
        effect = BoundedMean(DRAWS[name](generator, n), 1.0, 0.05).detectable(level, 0.8)
        for sign in (1, -1):
            for _ in range(8):
                values = np.clip(DRAWS[name](generator, n) + sign * effect, -1, 1)
                found.append(2 * min(BoundedMean(values, 1.0, 0.05).tails(0.0)) <= level)
    # 400 runs: .02, and as much again for what 300 items leave open of the spread
    limit = 3 * math.hypot(0.02, 0.02)
    assert np.mean(found) > 0.8 - limit
    # the effect is that of the harder sign, which is another one where there is a tail
    assert name == "long tail" or np.mean(found) < 0.8 + limit


def test_planned_power_is_that_of_the_test_that_will_be_run() -> None:
    """At Holm's first step the stakes still aim at the interval's level."""
    level, generator = 0.05 / 40, np.random.default_rng(8)
    found = [
        2 * min(paired(np.zeros(200), np.clip(generator.normal(0.09, 0.3, 200), -1, 1), reach=1.0).procedure.tails(0.0))
        for _ in range(300)
    ]
    assert np.mean(np.array(found) <= level) == pytest.approx(betting_power(0.09, 0.3, 200, alpha=level), abs=0.1)


def test_no_stake_wins_against_the_truth_without_spread() -> None:
    values = np.full((1, 50), 0.25)
    assert log_capital(values, np.array([[0.25]]), math.log(20)).item() == 0.0
    assert log_capital(values, np.array([[0.0]]), math.log(20)).item() > math.log(20)


def test_the_interval_holds_the_mean_and_narrows() -> None:
    generator = np.random.default_rng(0)
    widths = []
    for n in (50, 800):
        values = np.clip(generator.normal(0.1, 0.3, n), -1, 1)
        low, high = BoundedMean(values, 1.0, 0.05).interval(0.05)
        assert -1 <= low < values.mean() < high <= 1
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


def test_a_stake_knows_only_the_items_before_it() -> None:
    generator = np.random.default_rng(4)
    values = np.clip(generator.normal(0, 0.4, (1, 30)), -1, 1)
    for place in (1, 2, 17):
        other = values.copy()
        other[:, place:] = generator.uniform(-1, 1, 30 - place)
        one, two = betting._growth(values), betting._growth(other)
        assert np.allclose(one[:, : place + 1], two[:, : place + 1], rtol=1e-12)
        assert not np.isclose(one[:, place + 1], two[:, place + 1]).all()


def test_the_largest_capital_on_the_way_counts() -> None:
    won = np.r_[np.full(60, 0.5), np.full(60, -0.5)]
    assert math.exp(-log_capital(won[None], np.zeros((1, 1)), TARGET)[0, 0]) < 0.025
    assert math.exp(-log_capital(-won[None], np.zeros((1, 1)), TARGET)[0, 0]) > 0.2


def test_stakes_rise_while_the_capital_lags() -> None:
    """What is found with 80 % power is three standard errors away; stakes that stay the same need three and a half."""
    found = [
        BoundedMean(np.clip(np.random.default_rng(seed).normal(0, 0.3, 200), -1, 1), 1.0, 0.05).detectable(0.05, 0.8)
        for seed in range(5)
    ]
    assert 2.8 < np.mean(found) / (0.3 / math.sqrt(200)) < 3.25


def test_detectable_effects_of_many_items_fall_with_their_standard_error() -> None:
    values = np.clip(np.random.default_rng(6).normal(0, 0.1, 64_000), -1, 1)
    few, many = (BoundedMean(values[:n], 2.0, 0.05).detectable(0.05, 0.8) for n in (4_000, 64_000))
    assert many == pytest.approx(few / 4, rel=0.1) and few == pytest.approx(3.2 * 0.1 / math.sqrt(4_000), rel=0.15)


@pytest.mark.parametrize("level", [0.05, 0.05 / 40])
def test_a_detectable_effect_is_that_of_the_sign_that_is_harder_to_find(level: float) -> None:
    """One item in fifty loses almost everything: a gain hides behind such losses, a loss shows at once."""
    generator = np.random.default_rng(3)

    def drawn(*shape: int) -> np.ndarray:
        return np.where(generator.random(shape) < 0.02, -0.9, 0.9 * 0.02 / 0.98)

    effect = np.mean([BoundedMean(drawn(300), 1.0, 0.05).detectable(level, 0.8) for _ in range(4)])
    gains, losses = np.clip(drawn(400, 300) + effect, -1, 1), np.clip(drawn(400, 300) - effect, -1, 1)
    found = [log_capital(side, np.zeros((400, 1)), TARGET)[:, 0] >= math.log(2 / level) for side in (gains, -losses)]
    assert min(np.mean(side) for side in found) == pytest.approx(0.8, abs=0.09)
    assert np.mean(found[1]) > 0.95
