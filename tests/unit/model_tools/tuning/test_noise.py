"""What is said of measurements on machines whose speed drifts."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from model_tools.tuning.statistics import average, ratio, student, warm_from

TRIALS = 1000


def drifting(random_: random.Random) -> Callable[[], float]:
    """The speed of a machine that others use too: a walk over a factor of nine, beside 5 % of jitter."""
    level = random_.uniform(-1.1, 1.1)

    def speed() -> float:
        nonlocal level
        level = max(-1.1, min(1.1, level + random_.gauss(0, 0.1)))
        return math.exp(level + random_.gauss(0, 0.05))

    return speed


def measured(random_: random.Random, gain: float, rounds: int) -> list[tuple[float, float]]:
    """Pairs of throughputs, the second setting `gain` times as fast, in an order of chance."""
    speed = drifting(random_)
    pairs = []
    for _ in range(rounds):
        if random_.random() < 0.5:
            before = 100 * speed()
            pairs.append((before, 100 * gain * speed()))
        else:
            after = 100 * gain * speed()
            pairs.append((100 * speed(), after))
    return pairs


def share(gain: float, rounds: int, found: Callable[[list[tuple[float, float]]], bool]) -> float:
    random_ = random.Random(1)
    return sum(found(measured(random_, gain, rounds)) for _ in range(TRIALS)) / TRIALS


@pytest.mark.parametrize("rounds", [3, 5, 10])
def test_noise_alone_is_an_improvement_in_no_more_than_the_2_5_percent_that_were_asked_for(
    rounds: int,
) -> None:
    assert share(1.0, rounds, lambda pairs: ratio(pairs).above_one) < 0.035


def test_a_real_gain_is_found_in_spite_of_the_drift() -> None:
    assert share(1.5, 10, lambda pairs: ratio(pairs).above_one) > 0.95


def test_whoever_compared_means_would_be_fooled() -> None:
    """One setting measured after the other, as scripts do it, on the same machine: the drift decides."""

    def one_after_the_other() -> bool:
        speed = drifting(random_)
        first, second = ([speed() for _ in range(10)] for _ in range(2))
        return average(second).low > average(first).high

    random_ = random.Random(1)
    assert sum(one_after_the_other() for _ in range(TRIALS)) / TRIALS > 0.15


def test_the_interval_holds_the_true_ratio_as_often_as_it_says() -> None:
    assert 0.93 < share(2.0, 5, lambda pairs: ratio(pairs).low < 2 < ratio(pairs).high) < 0.97


def test_one_round_says_nothing() -> None:
    found = ratio([(1.0, 100.0)])
    assert not found.above_one
    assert found.high == math.inf


def test_a_ratio_of_nothing_is_an_error() -> None:
    for pairs in ([], [(0.0, 1.0)], [(1.0, -1.0)]):
        with pytest.raises(ValueError, match="above 0"):
            ratio(pairs)


def test_students_quantiles_are_those_of_the_distribution() -> None:
    from scipy.special import stdtrit

    for freedom in (1, 2, 5, 17, 30, 31, 60, 1000):
        assert student(freedom) == pytest.approx(stdtrit(freedom, 0.975), abs=0.001)


def test_a_load_is_warm_where_its_rate_stops_rising() -> None:
    random_ = random.Random(2)
    for rise in (4, 8, 12):
        counts = [50.0 * min(1, (place + 1) / rise) + random_.gauss(0, 2) for place in range(40)]
        cut = warm_from(counts)
        assert cut is not None
        assert rise - 3 <= cut <= rise + 8, rise


def test_a_load_that_still_changes_is_not_warm() -> None:
    assert warm_from([float(place) for place in range(40)]) is None
    assert warm_from([1.0, 2.0, 3.0]) is None


def test_a_steady_load_is_warm_at_once() -> None:
    random_ = random.Random(3)
    cut = warm_from([50 + random_.gauss(0, 3) for _ in range(40)])
    assert cut is not None
    assert cut < 20
