"""A Triton on this machine to measure a configuration with."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from model_tools.bundle import Bundle
from model_tools.config import ModelConfig
from model_tools.console import BadInput, CheckFailed
from model_tools.engine.timing import percentile
from model_tools.evaluate import verdict
from model_tools.repository import check, write_repository
from model_tools.serve import LocalTriton
from model_tools.tuning.sample import Sample, server_parts
from model_tools.tuning.statistics import warm_from
from model_tools.values import Values

if TYPE_CHECKING:
    from model_tools.tuning.load import Answers, Sender

STEADY_FOR = 1.0  # seconds that a load has to be steady before it is measured
_COUNTER = re.compile(r'^(nv_inference_\w+)\{model="([^"]*)",[^}]*\} (\S+)$', re.MULTILINE)


class Models:
    """Model directories by the tag of the image that would hold them; "" is for all other tags."""

    def __init__(self, given: Mapping[str, Path], allow_unevaluated: bool = False) -> None:
        """Raises BadInput for a folder that is no model directory, or a quantized model without a verdict."""
        self._bundles = {tag: Bundle.load(folder) for tag, folder in given.items()}
        if not allow_unevaluated:
            for bundle in self._bundles.values():
                verdict.demand(bundle)

    def of(self, values: Values) -> Bundle:
        """The model that the values name by `model.source.image.tag`. Raises BadInput for an unknown tag."""
        tag = str(values["model"].get("source", {}).get("image", {}).get("tag", ""))
        found = self._bundles.get(tag) or self._bundles.get("")
        if found is None:
            known = ", ".join(self._bundles)
            raise BadInput(
                f"model.source.image.tag {tag}: give its directory, --model {tag}=DIR ({known} known)"
            )
        return found

    def __len__(self) -> int:
        return len(self._bundles)


class LocalServer:
    """One configuration, served while the block runs. Raises BadInput where Triton refuses it."""

    def __init__(self, model: Bundle, config: ModelConfig, timeout: float = 300) -> None:
        self._model, self._config, self._timeout = model, config, timeout

    def __enter__(self) -> LocalServer:
        self._serving = self._serve()
        self._sender, self._metrics = self._serving.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._serving.__exit__(None, None, None)

    def check(self) -> None:
        """Raises BadInput where the model and the configuration do not fit; nothing is started."""
        check(self._model, self._config)

    @contextmanager
    def _serve(self) -> Iterator[tuple[Sender, str]]:
        from model_tools.tuning.load import Sender

        with tempfile.TemporaryDirectory(prefix="tuning-") as folder:
            repository = Path(folder) / "repository"
            write_repository([(self._model, self._config)], repository)
            # Nothing is in flight when it ends, so it need not be waited for.
            with (
                LocalTriton(repository, timeout=self._timeout, exit_seconds=0) as triton,
                Sender(triton.grpc, self._config.name) as sender,
            ):
                self._pid = triton.pid
                yield sender, f"http://{triton.metrics}/metrics"

    def sample(
        self,
        seconds: float,
        users: int | None = None,
        rate: float | None = None,
        warm_up: float = 20.0,
        seed: int = 0,
    ) -> Sample:
        """Loads it: `users` requests always in flight, or `rate` a second at random times.

        Measures `seconds` once the load is steady, at the latest after `warm_up` seconds. Raises CheckFailed
        where a request fails.
        """

        def read() -> dict[str, float]:
            return {**counters(self._metrics, self._config.name), "processor": processor_seconds(self._pid)}

        watch = _Watch(seconds, warm_up, read)
        if users is not None:
            answers = self._sender.closed(users, watch)
        else:
            assert rate is not None, "either users or a rate"
            answers = self._sender.open(rate, watch, seed)
        if answers.errors:
            raise CheckFailed(f"{len(answers.errors)} of {answers.sent} requests failed: {answers.errors[0]}")
        return watch.sample(answers)


class _Watch:
    """Says when a load has been measured for long enough, and what was measured."""

    def __init__(self, seconds: float, limit: float, read: Callable[[], dict[str, float]]) -> None:
        self._seconds, self._limit, self._read = seconds, limit, read
        self._start: float | None = None
        self._steady = False

    def __call__(self, answers: Answers) -> bool:
        from model_tools.tuning.load import SPAN

        now = time.perf_counter()
        if self._start is None:
            counts = answers.counts(now)
            cut = warm_from(counts)
            self._steady = cut is not None and (len(counts) - cut) * SPAN >= STEADY_FOR
            if answers.arrived and (self._steady or now - answers.began >= self._limit):
                self._before, self._start = self._read(), time.perf_counter()
            return False
        if now - self._start < self._seconds:
            return False
        self._after, self._end = self._read(), now
        return True

    def sample(self, answers: Answers) -> Sample:
        assert self._start is not None
        throughput, latencies = answers.between(self._start, self._end)
        return Sample(
            throughput=throughput,
            p50=percentile(latencies, 0.5),
            p95=percentile(latencies, 0.95),
            p99=percentile(latencies, 0.99),
            mean=sum(latencies) / len(latencies),
            **server_parts(self._before, self._after),
            requests=len(latencies),
            seconds=self._end - self._start,
            warm_up=self._start - answers.began,
            steady=self._steady,
            processor=(self._after["processor"] - self._before["processor"]) / len(latencies),
        )


def processor_seconds(group: int) -> float:
    """Processors' time that the processes of a process group have used, which are all those of a Triton."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # After the name in brackets: state, ppid, pgrp, and so on to utime and stime (proc(5)).
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        if int(fields[2]) == group:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def counters(url: str, model: str) -> dict[str, float]:
    """Triton's counters of one model, versions added up. Raises CheckFailed without an answer."""
    import requests

    try:
        text = requests.get(url, timeout=10).text
    except requests.RequestException as error:
        raise CheckFailed(f"Triton's metrics can't be read: {error}") from None
    found: dict[str, float] = {}
    for name, of, value in _COUNTER.findall(text):
        if of == model:
            found[name] = found.get(name, 0.0) + float(value)
    return found
