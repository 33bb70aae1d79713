"""The search: an optimiser proposes, real servers answer, and what can't win any more is given up."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from model_tools.console import BadInput, CheckFailed
from model_tools.tune.space import Choice, Space
from model_tools.tuning.journal import Journal
from model_tools.tuning.sample import Sample
from model_tools.tuning.show import Report
from model_tools.tuning.statistics import Interval, ratio, student

ANSWERED = 0.97  # of the requests offered that have to be answered within the time that they come in
FINALISTS = 3  # configurations that are measured again in the end
FINAL_SHARE = 4  # one in so many measurements is for them
HOPELESS = 1.5  # times the limit of p99 at which one measurement is enough


@dataclass(frozen=True)
class Goal:
    """The largest throughput, or, with a `rate`, the cheapest configuration that answers so many a second.

    max_p99: seconds that the p99 may have, None for any.
    """

    max_p99: float | None = None
    rate: float | None = None

    def met_by(self, sample: Sample) -> bool:
        fast = self.max_p99 is None or sample.p99 <= self.max_p99
        return fast and (self.rate is None or sample.throughput >= ANSWERED * self.rate)

    def excess(self, sample: Sample) -> float:
        """By how much it is missed, as a share of what is asked for; not above 0 where it is met."""
        parts = [] if self.max_p99 is None else [sample.p99 / self.max_p99 - 1]
        if self.rate is not None:
            parts.append(ANSWERED - sample.throughput / self.rate)
        return max(parts, default=-1.0)


# Measures the reference and the configuration once, one straight after the other.
Slice = Callable[[], tuple[Sample, Sample]]
Serve = Callable[[Choice], AbstractContextManager[Slice]]


@dataclass
class Trial:
    """What is known of one configuration."""

    choice: Choice
    pairs: list[tuple[Sample, Sample]] = field(default_factory=list)
    failure: str = ""
    pruned: str = ""

    @property
    def times(self) -> Interval:
        """The throughput, in times the reference's."""
        return ratio([(reference.throughput, own.throughput) for reference, own in self.pairs])

    @property
    def p99(self) -> float:
        return statistics.median(own.p99 for _, own in self.pairs)

    @property
    def throughput(self) -> float:
        return statistics.median(own.throughput for _, own in self.pairs)

    def excess(self, goal: Goal) -> float:
        """Of the middle one of the measurements, so that one hiccup does not rule a configuration out."""
        if self.failure or not self.pairs:
            return math.inf
        return statistics.median(goal.excess(own) for _, own in self.pairs)

    def meets(self, goal: Goal) -> bool:
        return self.excess(goal) <= 0

    def worth(self, goal: Goal) -> float:
        """What is to be large: the logarithm of the throughput, or the negative cost."""
        if goal.rate is None:
            return math.log(self.times.mean)
        threads, instances = self.choice.cost
        # Of two that occupy the same, the one that answers sooner.
        return -(threads + instances / 100 + min(self.p99, 1e3) / 1e6)


@dataclass(frozen=True)
class Found:
    """The result: `best` is None where nothing meets the goal. measurements: slices of configurations."""

    best: Trial | None
    trials: list[Trial]
    measurements: int


class Search:
    """Serves configurations one after the other and remembers what they gave, in the journal.

    Each measurement of a configuration stands beside one of the reference, whose server runs all the time: a
    machine that slows down slows both, and their ratio stays.
    """

    def __init__(self, space: Space, goal: Goal, serve: Serve, journal: Journal, slices: int) -> None:
        self.space, self.goal, self.slices = space, goal, slices
        self._serve, self._journal = serve, journal
        self.trials: dict[Choice, Trial] = {}
        for entry in journal.entries:
            self._remember(entry)

    @property
    def measurements(self) -> int:
        return sum(len(trial.pairs) + bool(trial.failure) for trial in self.trials.values())

    def run(self, budget: int, seed: int, report: Report) -> Found:
        """Measures until `budget` measurements are made or nothing is left, and returns the best.

        The last of them are for the FINALISTS: of many noisy numbers the largest is too large.
        """
        demand_enough(budget, self.slices)
        explore = budget - budget // FINAL_SHARE
        for choice in self._proposals(seed):
            if self.measurements >= explore:
                break
            self._measure(choice, explore, report)
        self._finals(budget, report)
        return Found(self.best(), list(self.trials.values()), self.measurements)

    def best(self) -> Trial | None:
        met = [trial for trial in self.trials.values() if trial.meets(self.goal) and not trial.pruned]
        return max(met, key=lambda trial: trial.worth(self.goal), default=None)

    def _measure(self, choice: Choice, limit: int, report: Report) -> None:
        trial = self.trials.setdefault(choice, Trial(choice))
        if self.goal.rate is not None and (best := self.best()) and choice.cost > best.choice.cost:
            return  # it can't be cheaper, whatever it does
        try:
            with self._serve(choice) as measure:
                while len(trial.pairs) < self.slices and self.measurements < limit:
                    report(str(choice), self.measurements, limit)
                    reference, own = measure()
                    pair = {"reference": reference.as_dict(), "sample": own.as_dict()}
                    self._add(choice, pair)
                    if reason := self._hopeless(trial):
                        self._add(choice, {"pruned": reason})
                        break
        except CheckFailed as failure:
            self._add(choice, {"failure": str(failure)})

    def _hopeless(self, trial: Trial) -> str:
        """Why a configuration is not measured any further, "" where it still may win."""
        if len(trial.pairs) >= self.slices:
            return ""
        excess = trial.excess(self.goal)
        if excess > HOPELESS - 1:
            return "far from the objective"
        return "behind the best beyond the noise" if self._behind(trial) else ""

    def _behind(self, trial: Trial) -> bool:
        """Whether the best has more throughput beyond the noise."""
        best = self.best()
        if best is None or best is trial or self.goal.rate is not None:
            return False
        optimistic = math.log(trial.times.mean) + self._doubt(len(trial.pairs))
        return optimistic < best.worth(self.goal)

    def _doubt(self, count: int) -> float:
        """Half the interval of a mean of so many measurements, by the scatter within all trials so far."""
        squares, freedom = 0.0, 0
        for trial in self.trials.values():
            logs = [math.log(own.throughput / reference.throughput) for reference, own in trial.pairs]
            if len(logs) > 1:
                mean = statistics.fmean(logs)
                squares += math.fsum((value - mean) ** 2 for value in logs)
                freedom += len(logs) - 1
        # The one that it is compared with scatters as well.
        return math.inf if freedom < 2 else student(freedom) * math.sqrt(2 * squares / freedom / count)

    def _finals(self, budget: int, report: Report) -> None:
        """Measures the best configurations again, in turns."""
        met = [trial for trial in self.trials.values() if trial.meets(self.goal) and not trial.pruned]
        if self.goal.rate is not None:
            met = [trial for trial in met if trial.choice.cost == min(other.choice.cost for other in met)]
        finalists = sorted(met, key=lambda trial: trial.worth(self.goal), reverse=True)[:FINALISTS]
        turn = 0
        while self.measurements < budget:
            finalists = [trial for trial in finalists if not trial.failure and not self._behind(trial)]
            if len(finalists) < 2:
                break
            trial = finalists[turn % len(finalists)]
            turn += 1
            try:
                with self._serve(trial.choice) as measure:
                    report(f"again: {trial.choice}", self.measurements, budget)
                    reference, own = measure()
                    self._add(trial.choice, {"reference": reference.as_dict(), "sample": own.as_dict()})
            except CheckFailed as failure:
                self._add(trial.choice, {"failure": str(failure)})

    def _proposals(self, seed: int) -> Iterator[Choice]:
        """What to measure next, by what has been measured; never the same twice. Ends when all were."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=5, multivariate=True, n_ei_candidates=64
        )
        study = optuna.create_study(direction="maximize", sampler=sampler)
        dimensions = self.space.dimensions()
        distributions: dict[str, Any] = {
            name: optuna.distributions.IntDistribution(0, len(values) - 1)
            for name, values in dimensions.items()
        }

        def tell(choice: Choice) -> None:
            trial = self.trials[choice]
            if trial.failure or not trial.pairs:
                worth, excess = -10.0, 10.0
            else:
                worth, excess = trial.worth(self.goal), trial.excess(self.goal)
            place = {name: list(dimensions[name]).index(getattr(choice, name)) for name in dimensions}
            study.add_trial(
                optuna.trial.create_trial(
                    params=place,
                    distributions=distributions,
                    value=worth,
                    constraints={"objective": excess},
                )
            )

        left = set(self.space.choices())
        for choice in list(self.trials):
            if choice in left and self._finished(self.trials[choice]):
                left.discard(choice)
                tell(choice)
        for choice in self.space.first():
            if choice in left:
                left.discard(choice)
                yield choice
                tell(choice)
        turn = 0
        while left:
            turn += 1
            best = self.best()
            beside = sorted(other for other in left if best and _differ(best.choice, other) == 1)
            if turn % 2 == 0 and best and beside:
                # The optimum is often a ridge that is one step wide: a step from the best known.
                choice = min(beside, key=lambda other: (_distance(self.space, best.choice, other), other))
            else:
                asked = study.ask(distributions)
                wanted = self.space.choice(
                    **{name: dimensions[name][place] for name, place in asked.params.items()}
                )
                study.tell(asked, state=optuna.trial.TrialState.FAIL)  # told below, of what is measured
                choice = min(left, key=lambda other: (_distance(self.space, wanted, other), other))
            left.discard(choice)
            yield choice
            tell(choice)

    def _finished(self, trial: Trial) -> bool:
        return bool(trial.failure or trial.pruned) or len(trial.pairs) >= self.slices

    def _add(self, choice: Choice, what: dict[str, Any]) -> None:
        entry = {"choice": vars(choice), **what}
        self._journal.add(entry)
        self._remember(entry)

    def _remember(self, entry: dict[str, Any]) -> None:
        choice = Choice(**entry["choice"])
        trial = self.trials.setdefault(choice, Trial(choice))
        trial.failure = entry.get("failure", trial.failure)
        trial.pruned = entry.get("pruned", trial.pruned)
        if "sample" in entry:
            trial.pairs.append((Sample(**entry["reference"]), Sample(**entry["sample"])))


def demand_enough(budget: int, slices: int) -> None:
    """Raises BadInput for so few measurements that nothing could be compared."""
    if budget < 2 * slices:
        raise BadInput(f"{budget} measurements are too few: {2 * slices} are two configurations")


def _differ(one: Choice, other: Choice) -> int:
    """In how many settings."""
    return sum(value != getattr(other, name) for name, value in vars(one).items())


def _distance(space: Space, one: Choice, other: Choice) -> float:
    """Steps between two configurations, each dimension as long as 1."""
    total = 0.0
    for name, values in space.dimensions().items():
        places = [list(values).index(getattr(choice, name)) for choice in (one, other)]
        total += abs(places[0] - places[1]) / max(1, len(values) - 1)
    return total
