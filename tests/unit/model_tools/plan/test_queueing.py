"""The simulation of dynamic batching against queueing theory, where that has closed forms."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from model_tools.config import Batching, Queue
from model_tools.plan.queueing import Outcome, Service, poisson, simulate, split

SERVICE = 0.010  # seconds of one request
SINGLE = Batching(1)
# The quantiles of an exponential distribution with mean 1; the mean of what is drawn from them is within 0.2
# % of 1.
EXPONENTIAL = tuple((share, -math.log(1 - share)) for share in np.linspace(0, 0.9999, 4000))


def independent(
    instances: int, service: float = SERVICE, spread: Sequence[tuple[float, float]] = ()
) -> Service:
    """Instances that don't slow each other down; a batch takes as long as one request."""
    return Service([[0.0, *[service] * 64]] * instances, tuple(spread))


def shared(instances: int, service: float = SERVICE) -> Service:
    """Instances that share one processor fairly."""
    return Service([[0.0, *[service * busy] * 64] for busy in range(1, instances + 1)])


def settled(load: float, service: Service, batching: Batching = SINGLE, count: int = 100_000) -> Outcome:
    """The outcome at a load, 1 being all that independent instances do, of several replications as one."""
    rate = load * len(service.seconds) / SERVICE
    runs = [simulate(poisson(rate, count // 4, seed), batching, service, seed) for seed in range(4)]
    return Outcome(
        np.concatenate([run.latency for run in runs]),
        np.concatenate([run.wait for run in runs]),
        sum(run.full for run in runs),
        sum(run.expired for run in runs),
        np.concatenate([run.sizes for run in runs]),
        sum(run.busy for run in runs),
        sum(run.duration for run in runs),
    )


def erlang_c(instances: int, load: float) -> float:
    """The share of requests that wait, of M/M/k."""
    offered = instances * load
    last = offered**instances / math.factorial(instances) / (1 - load)
    return last / (sum(offered**n / math.factorial(n) for n in range(instances)) + last)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_fixed_times_on_one_instance_wait_as_long_as_pollaczek_and_khinchine_say(load: float) -> None:
    outcome = settled(load, independent(1))
    assert outcome.mean_wait == pytest.approx(load * SERVICE / (2 * (1 - load)), rel=0.05)
    assert outcome.busy / outcome.duration == pytest.approx(load, rel=0.01)


@pytest.mark.parametrize(("instances", "load"), [(1, 0.5), (1, 0.7), (2, 0.7), (4, 0.8)])
def test_exponential_times_on_k_instances_wait_as_long_as_erlang_says(instances: int, load: float) -> None:
    outcome = settled(load, independent(instances, spread=EXPONENTIAL))
    expected = erlang_c(instances, load) * SERVICE / (instances * (1 - load))
    assert outcome.mean_wait == pytest.approx(expected, rel=0.08)
    assert (outcome.wait > 1e-9).mean() == pytest.approx(erlang_c(instances, load), rel=0.04)


def test_latencies_of_a_single_exponential_server_are_exponential() -> None:
    outcome = settled(0.5, independent(1, spread=EXPONENTIAL))
    for share in (0.5, 0.9, 0.99):
        expected = -math.log(1 - share) * SERVICE / 0.5
        assert outcome.percentile(share) == pytest.approx(expected, rel=0.05)


def test_a_queue_of_three_refuses_as_many_as_the_formula_of_a_bounded_queue_says() -> None:
    load, places = 0.9, 4  # three wait, one is served
    outcome = settled(load, independent(1, spread=EXPONENTIAL), Batching(1, queue=Queue(size=3)))
    expected = (1 - load) * load**places / (1 - load ** (places + 1))
    assert outcome.refused_share == pytest.approx(expected, rel=0.06)
    assert outcome.expired == 0


@pytest.mark.parametrize("load", [0.4, 0.7])
def test_many_instances_that_share_a_gpu_are_processor_sharing(load: float) -> None:
    """M/D/1 with processor sharing: a request stays S / (1 - load) on average, and none ever waits."""
    service = shared(64)
    outcome = simulate(poisson(load / SERVICE, 60_000, 1), SINGLE, service)
    assert outcome.latency.mean() == pytest.approx(SERVICE / (1 - load), rel=0.03)
    assert outcome.mean_wait == pytest.approx(0, abs=SERVICE / 1000)


@pytest.mark.parametrize("instances", [1, 2, 4])
def test_instances_that_share_a_gpu_give_no_more_than_one(instances: int) -> None:
    outcome = simulate(poisson(3 / SERVICE, 20_000, 1), SINGLE, shared(instances))
    assert outcome.throughput == pytest.approx(1 / SERVICE, rel=0.001)


BATCHINGS = {
    "no batching": SINGLE,
    "no delay": Batching(8),
    "delay": Batching(8, (4, 8), 5000),
    "bounded": Batching(8, (8,), 2000, Queue(16, 0)),
    "expiring": Batching(8, (8,), 2000, Queue(64, 9000)),
}


@pytest.mark.parametrize("load", [0.5, 3.0, 9.0])
@pytest.mark.parametrize("batching", BATCHINGS.values(), ids=BATCHINGS.keys())
def test_no_request_is_lost_and_the_number_in_the_system_follows_little(
    batching: Batching, load: float
) -> None:
    arrivals = poisson(load / SERVICE, 30_000, 3)
    outcome = simulate(arrivals, batching, independent(2, spread=[(0.5, 1.0), (0.99, 1.4)]))
    assert outcome.arrived == len(arrivals)
    assert outcome.sizes.sum() == outcome.served
    assert outcome.sizes.max() <= batching.max_size
    assert (outcome.wait >= -1e-9).all()
    # Little's law, with the number in the system counted at moments of its own and not from the latencies'
    # sum.
    if outcome.served == len(arrivals):
        ends = np.sort(arrivals + outcome.latency)
        moments = np.linspace(arrivals[0], ends[-1], 200_001)
        inside = np.searchsorted(arrivals, moments) - np.searchsorted(ends, moments)
        assert inside.mean() == pytest.approx(outcome.throughput * outcome.latency.mean(), rel=0.01)


def test_at_saturation_batches_are_full_and_throughput_is_theirs() -> None:
    service = Service([[0.0, *(0.002 + 0.001 * size for size in range(1, 17))]], ((0.5, 1.0), (0.9, 1.5)))
    outcome = simulate(poisson(20 / SERVICE, 50_000, 1), Batching(16), service)
    assert outcome.sizes[10:-1].min() == 16
    assert outcome.throughput == pytest.approx(service.capacity(16), rel=0.01)


def at(*milliseconds: float) -> np.ndarray:
    return np.array(milliseconds) / 1000


def sizes(batching: Batching, *milliseconds: float) -> list[int]:
    """Of the batches that one instance, 10 ms a batch, takes from arrivals at these times."""
    return [int(size) for size in simulate(at(*milliseconds), batching, independent(1)).sizes]


class TestTritonsRules:
    def test_without_a_delay_an_idle_instance_takes_what_waits(self) -> None:
        assert sizes(Batching(4), 0, 1, 2, 3) == [1, 3]
        assert sizes(Batching(4), 0, 1, 2, 3, 4, 5) == [1, 4, 1]

    def test_without_a_delay_it_takes_the_largest_preferred_size_that_waits(self) -> None:
        assert sizes(Batching(8, (2, 4)), 0, 1, 2, 3, 4, 5, 6) == [1, 4, 2]

    def test_a_delay_makes_it_wait_for_the_preferred_size(self) -> None:
        outcome = simulate(at(0, 1, 2, 3), Batching(4, (2, 4), 6000), independent(1))
        assert list(outcome.sizes) == [2, 2]
        assert outcome.wait * 1000 == pytest.approx([1, 0, 9, 8])

    def test_a_delay_that_is_over_sends_what_there_is(self) -> None:
        outcome = simulate(at(0, 2), Batching(4, (4,), 6000), independent(1))
        assert list(outcome.sizes) == [2]
        assert outcome.wait * 1000 == pytest.approx([6, 4])

    def test_after_the_delay_the_largest_batch_counts_and_not_the_preferred_size(self) -> None:
        batching = Batching(8, (2,), 3000)
        assert sizes(batching, 0, 0, 1, 2, 3, 4, 5) == [2, 5]

    def test_requests_that_waited_for_too_long_are_refused_when_the_next_batch_is_formed(self) -> None:
        outcome = simulate(at(0, 1, 8), Batching(4, queue=Queue(timeout=5000)), independent(1))
        assert (outcome.expired, outcome.served, list(outcome.sizes)) == (1, 2, [1, 1])

    def test_a_full_queue_refuses_at_once(self) -> None:
        outcome = simulate(at(0, 1, 2, 3, 4), Batching(4, queue=Queue(size=2)), independent(1))
        assert (outcome.full, list(outcome.sizes)) == (2, [1, 2])

    def test_a_second_instance_slows_the_first_from_when_it_begins(self) -> None:
        """10 ms of work each: alone from 0 to 4, both from 4 to 16, the second alone from 16 to 20."""
        outcome = simulate(at(0, 4), SINGLE, shared(2))
        assert outcome.latency * 1000 == pytest.approx([16, 16])
        assert outcome.busy * 2000 == pytest.approx(32)


def test_batches_that_no_time_is_known_of_are_refused() -> None:
    with pytest.raises(ValueError, match="batches of 65, and times are known up to 64"):
        simulate(at(0), Batching(65), independent(1))


def test_no_arrivals_are_no_outcome() -> None:
    outcome = simulate(at(), SINGLE, independent(1))
    assert (outcome.arrived, outcome.throughput, outcome.mean_batch) == (0, 0, 0)


class TestPods:
    def test_each_request_goes_to_one_pod(self) -> None:
        arrivals = poisson(100, 1000, 1)
        for balancer in ("random", "round-robin"):
            parts = split(arrivals, 3, balancer)
            assert np.sort(np.concatenate(parts)) == pytest.approx(arrivals)

    def test_in_turn_is_steadier_than_at_random(self) -> None:
        """Behind a balancer that takes turns a pod's arrivals are less bursty: shorter waits."""
        arrivals = poisson(4 * 0.8 / SERVICE, 100_000, 1)
        waits = {
            balancer: np.mean(
                [simulate(part, SINGLE, independent(1)).mean_wait for part in split(arrivals, 4, balancer)]
            )
            for balancer in ("random", "round-robin")
        }
        assert waits["random"] == pytest.approx(0.8 * SERVICE / (2 * 0.2), rel=0.1)
        assert waits["round-robin"] < 0.6 * waits["random"]
