"""What a pod serves, and what follows for a fleet of them."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from model_tools.config import Batching, Queue
from model_tools.console import BadInput, CheckFailed
from model_tools.plan import curves, output, planning
from model_tools.plan import traffic as traffics
from model_tools.plan.capacity import Objectives, Pod, Table, best, candidates, steady, tabulate
from model_tools.plan.planning import MARGIN, Plan, rounded
from model_tools.plan.traffic import Traffic
from model_tools.values import load_values, merge

ROOT = Path(__file__).parents[4]
OBJECTIVES = Objectives(percentile=0.99, threshold=0.15, queue_time=0.02, availability=0.999)
T4 = curves.load("t4", "int8")
VALUES = merge(load_values([]), {"model": {"precision": "int8"}})


def quiet(_: str) -> None:
    pass


@cache
def pod() -> Pod:
    return best(T4, OBJECTIVES, list(candidates(T4, OBJECTIVES)), quiet)


@cache
def table() -> Table:
    return tabulate(pod(), OBJECTIVES, quiet)


def traffic(folder: Path, content: Any = None) -> Traffic:
    file = folder / "traffic.yaml"
    regions = {"us-central1": {"peak": 9000}, "europe-west4": {"peak": 7000}, "asia-east1": {"peak": 6000}}
    file.write_text(yaml.safe_dump(content or {"price": 0.5, "regions": regions}, sort_keys=False))
    return traffics.load(file)


def plan(folder: Path, content: Any = None, **given: Any) -> Plan:
    return planning.make(traffic(folder, content), pod(), table(), VALUES, quiet, **given)


@pytest.fixture(scope="module")
def spare(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Of three regions, any of which may be lost."""
    return plan(tmp_path_factory.mktemp("spare"))


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Of three regions, all of which stay."""
    return plan(tmp_path_factory.mktemp("bare"), survive=False)


class TestCapacity:
    def test_what_a_pod_serves_is_where_an_objective_breaks(self) -> None:
        found = pod()
        assert OBJECTIVES.met_by(steady(T4, found.batching, found.instances, found.rate))
        above = steady(T4, found.batching, found.instances, found.rate + 0.01 * found.saturation)
        assert not OBJECTIVES.met_by(above)
        assert found.saturation == pytest.approx(4053, rel=0.001)
        assert (found.batching.max_size, found.instances) == (16, 4)

    def test_the_choice_is_the_best_of_all_that_are_tried_one_by_one(self) -> None:
        """With an objective so close that not simply the largest throughput wins."""
        close = dataclasses.replace(OBJECTIVES, threshold=0.014, queue_time=0.004)
        choices = [choice for choice in candidates(T4, close) if choice[0].max_queue_delay == 0]
        chosen = best(T4, close, choices, quiet)
        rates = {choice: best(T4, close, [choice], quiet).rate for choice in choices}
        assert chosen.rate >= 0.985 * max(rates.values())
        assert (chosen.batching.max_size, chosen.instances) != (16, 4)

    def test_the_queue_lets_in_what_can_be_answered_in_time_and_no_more(self) -> None:
        for batching, instances in candidates(T4, OBJECTIVES):
            service = T4.service(instances, batching.max_size)
            longest = batching.queue.timeout * 1e-6 + service.seconds[-1][batching.max_size]
            assert longest == pytest.approx(OBJECTIVES.threshold, abs=1e-5)
            assert batching.queue.size >= batching.max_size
            # In an overload nobody is answered late, and the rest is refused.
            if batching.max_size == 16 and not batching.max_queue_delay:
                outcome = steady(T4, batching, instances, 2 * service.capacity(16))
                assert outcome.latency.max() <= OBJECTIVES.threshold * 1.001
                assert outcome.refused_share == pytest.approx(0.5, abs=0.05)

    def test_an_objective_that_no_batching_meets_is_a_failed_check(self) -> None:
        impossible = dataclasses.replace(OBJECTIVES, threshold=0.0025)
        with pytest.raises(CheckFailed, match="t4 int8: no batching meets the objectives"):
            best(T4, impossible, [(Batching(16, (16,), 0, Queue(128)), 4)], quiet)

    def test_the_values_own_batching_can_be_kept(self) -> None:
        own = {"batching": {"maxSize": 1, "preferredSizes": []}, "instances": {"count": 1}}
        kept, _ = planning.size(T4, merge(VALUES, {"model": own}), quiet, keep_batching=True)
        assert (kept.batching.max_size, kept.batching.queue.size, kept.instances) == (1, 128, 1)
        assert kept.rate < 1000 / 2.742

    def test_batches_that_the_curve_does_not_know_are_refused(self) -> None:
        values = merge(VALUES, {"model": {"batching": {"maxSize": 64, "preferredSizes": [64]}}})
        with pytest.raises(BadInput, match="t4 int8: a batch of 64, and times are known up to 16"):
            planning.size(T4, values, quiet, keep_batching=True)

    def test_a_latency_below_that_of_one_batch_is_a_failed_check(self) -> None:
        values = merge(VALUES, {"slo": {"latency": {"server": {"threshold": 0.001}}}})
        with pytest.raises(CheckFailed, match="no batch is computed within the 1 ms"):
            planning.size(T4, values, quiet)

    def test_the_table_is_what_the_simulation_says_at_its_rates(self) -> None:
        found = table()
        outcome = steady(T4, pod().batching, pod().instances, float(found.rates[5]))
        assert found.percentiles(0.99)[5] == pytest.approx(outcome.percentile(0.99), rel=0.02)
        assert found.percentiles(0.5)[5] == pytest.approx(outcome.percentile(0.5), rel=0.02)
        assert found.queue_time[5] == pytest.approx(outcome.mean_wait)
        assert (np.diff(found.rates) > 0).all()
        assert found.at(found.queue_time, (found.rates[5] + found.rates[6]) / 2) == pytest.approx(
            (found.queue_time[5] + found.queue_time[6]) / 2
        )

    def test_a_percentile_of_a_mixture_is_between_its_parts(self) -> None:
        weights = np.zeros(len(table().rates))
        weights[2], weights[9] = 1, 1
        low, high = table().percentiles(0.99)[[2, 9]]
        assert low < table().percentile(weights, 0.99) < high


@pytest.mark.parametrize(
    ("slo", "message"),
    [
        ({}, r"slo.latency.server.percentile: is None"),
        ({"latency": {"server": {"percentile": 99}}}, "percentile: is 99, and has to be between 0 and 1"),
        (
            {"latency": {"server": {"percentile": 0.9, "threshold": 0}}},
            "threshold: is 0, and has to be above 0",
        ),
    ],
)
def test_objectives_that_are_none_are_refused(slo: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Objectives.from_values({"slo": slo})


class TestPlan:
    def test_the_share_of_a_pod_is_the_least_that_anything_allows(self, spare: Plan) -> None:
        found = spare
        assert found.fleet.target == rounded(found.pod.rate * found.reasons.share)
        assert (found.reasons.deciding, found.reasons.usual) == ("usual", 0.7 * MARGIN)
        # The chart's routing takes a pod for full at requestsPerSecond / 0.7.
        assert found.fleet.limit == pytest.approx(found.pod.rate * MARGIN, rel=0.005)

    def test_a_steep_day_leaves_more_room(self, tmp_path: Path) -> None:
        day = [0.2] * 8 + [1.0] * 16  # 5 times as much within an hour
        found = plan(tmp_path, {"price": 1, "day": day, "regions": {"us-central1": {"peak": 9000}}})
        assert found.reasons.deciding == "growth"
        assert found.day.on_time_share > 0.999

    def test_pods_that_run_anyway_take_over_any_regions_clients_at_any_time(
        self, spare: Plan, bare: Plan
    ) -> None:
        found = spare
        demand = found.traffic.demand(found.day.times)
        room = found.day.ready * found.fleet.limit
        assert (room.sum(axis=0) - room >= demand.sum(axis=0) * 0.999).all()
        room = bare.day.ready * bare.fleet.limit
        assert not (room.sum(axis=0) - room >= demand.sum(axis=0)).all()

    def test_the_day_meets_the_objectives_and_so_does_one_without_any_region(self, spare: Plan) -> None:
        found = spare
        assert found.day.on_time_share >= 0.999
        assert {loss.region for loss in found.losses} == {"us-central1", "europe-west4", "asia-east1"}
        for loss in found.losses:
            assert loss.on_time >= 0.99
            lost = found.traffic.names.index(loss.region)
            away = loss.day.times >= loss.start
            assert loss.day.load[lost, away].max() == 0
            assert loss.moved == pytest.approx(loss.day.demand[lost, away].max(), rel=0.05)

    def test_without_spare_it_costs_less_and_a_loss_is_not_survived(self, spare: Plan, bare: Plan) -> None:
        assert bare.cost < 0.8 * spare.cost
        assert bare.worst_loss is None
        assert bare.reasons.deciding == "usual"
        failure = planning.Failure(0, 3600, 7200)
        scaling = planning.Scaling.from_values(VALUES)
        day = planning.fleets.simulate(
            bare.traffic, bare.fleet, bare.table, scaling, OBJECTIVES, failure=failure, end=7200
        )
        away = day.times >= failure.start
        assert 1 - day.late[:, away].sum() / day.load[:, away].sum() < OBJECTIVES.percentile

    def test_cost_is_the_nodes_of_a_day_at_their_price(self, spare: Plan) -> None:
        found = spare
        for region in found.regions:
            assert region.cost == pytest.approx(region.nodes * 0.5 * 730, rel=1e-6)
        month = found.day.demand.sum() * 15 * 365 / 12
        assert found.cost_of_a_million == pytest.approx(found.cost / month * 1e6)

    def test_nodes_follow_from_the_load(self, bare: Plan) -> None:
        """At the busiest moment: load / target pods, within the tolerance and one for the rounding."""
        found = bare
        for index, region in enumerate(found.regions):
            pods = region.peak / found.fleet.target
            assert pods / 1.1 - 1 <= found.day.asked[index].max() <= pods * 1.1 + 1
            assert region.least <= found.day.asked[index].min()
            assert region.most >= found.day.asked[index].max()

    def test_a_day_of_the_planet_meets_the_objectives(self) -> None:
        """20 regions, 1 million requests a second, and the loss of each region."""
        planet = traffics.load(ROOT / "docs" / "plan" / "planet.yaml", price=0.54)
        found = planning.make(planet, pod(), table(), VALUES, quiet)
        assert len(found.regions) == len(found.losses) == 20
        assert found.day.demand.sum(axis=0).max() == pytest.approx(1_000_000)
        assert found.day.on_time_share >= 0.99
        assert min(loss.on_time for loss in found.losses) >= 0.99

    def test_a_single_region_has_nobody_to_take_over(self, tmp_path: Path) -> None:
        found = plan(tmp_path, content={"price": 1, "regions": {"us-central1": {"peak": 9000}}})
        assert found.worst_loss is None
        assert found.fleet.least[0] == np.ceil(0.28 * 9000 / found.fleet.target)

    def test_a_region_that_may_not_have_the_nodes_is_named(self, tmp_path: Path) -> None:
        content = {"price": 1, "regions": {"us-central1": {"peak": 90_000, "maxNodes": 10}}}
        with pytest.raises(CheckFailed, match=r"us-central1: .* may have no more nodes \(maxNodes\)"):
            plan(tmp_path, content=content)


def test_the_tables_have_every_region_and_say_whose_figures_these_are(
    spare: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    output.show(spare)
    printed = capsys.readouterr().out
    for name in ("us-central1", "europe-west4", "asia-east1"):
        assert name in printed
    assert "NVIDIA T4, int8: published figures" in printed
    assert f"{spare.cost:,.0f} a month" in printed


@pytest.mark.parametrize(
    ("rate", "shown"), [(2804.3, 2800), (37.77, 37.7), (0.123456, 0.123), (100, 100), (999.99, 999)]
)
def test_rates_are_rounded_down_to_three_digits(rate: float, shown: float) -> None:
    assert rounded(rate) == shown
