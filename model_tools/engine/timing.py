"""How fast an engine is on this GPU, measured so that neither Python nor its lock is what is measured.

An instance is an execution context with streams of its own. Its work is captured as CUDA graphs once, and
what a case runs is enqueued ahead: launches return at once, and the GPU finds the next one waiting. An
instance has two sets of buffers and three streams, so that with transfers a batch is copied in and another
out while one is computed, which is how a server that keeps the GPU busy does it, and trtexec.

Two methods:
    ahead    everything is enqueued, then waited for; the rate is over the time of all of it
    trtexec  its loop: one launch an instance, then wait for the launch before that; 200 ms of warm-up
"""

from __future__ import annotations

import array
import ctypes
import math
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any

from model_tools.console import BadInput
from model_tools.engine.cuda import OUT_OF_MEMORY, Cuda, CudaError
from model_tools.engine.trt import context

METHODS = ("ahead", "trtexec")
_WARM_UP = 0.2  # seconds
_LAUNCHES = 200  # of the pass that latencies are from
_RANDOM_BLOCK = 1 << 20
_SETS = 2


@dataclass(frozen=True)
class Case:
    """What is measured: launches of `batch` on `instances` contexts, with copies or without."""

    batch: int
    instances: int = 1
    transfers: bool = False
    method: str = "ahead"


@dataclass(frozen=True)
class Speed:
    """Images a second, and milliseconds of a launch with its copies while each instance has one in flight."""

    images_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float

    def parts(self) -> dict[str, float]:
        return {"images_per_s": round(self.images_per_s)} | {
            name: round(value, 3) for name, value in asdict(self).items() if name.endswith("_ms")
        }


def measure(trt: Any, engine: Any, case: Case, seconds: float) -> Speed:
    """Runs a case for `seconds` after a warm-up. Raises BadInput for what the plan or the memory can't do."""
    with instances(trt, engine, case) as lanes:
        rate = _ahead(lanes, seconds) if case.method == "ahead" else _as_trtexec(lanes, seconds)
        taken = _latencies(lanes, seconds)
        p50, p95, p99 = (percentile(taken, share) for share in (0.5, 0.95, 0.99))
        return Speed(rate * case.batch, p50, p95, p99)


@contextmanager
def instances(trt: Any, engine: Any, case: Case) -> Iterator[list[Lane]]:
    """The case's contexts in the block, and nothing of them after it."""
    cuda = Cuda()
    cuda.activate()
    lanes: list[Lane] = []
    try:
        for _ in range(case.instances):
            lane = Lane(cuda)
            lanes.append(lane)
            lane.prepare(trt, engine, case.batch, case.transfers)
        yield lanes
    except CudaError as error:
        if error.status != OUT_OF_MEMORY:
            raise
        raise BadInput(
            f"out of GPU memory with {case.instances} instances of batch {case.batch}; take fewer"
        ) from error
    finally:
        for lane in lanes:
            lane.close()


def layer_times(trt: Any, engine: Any, batch: int, runs: int = 20) -> dict[str, float]:
    """Milliseconds of each layer, the mean of `runs` after a first; they sum to more than a launch takes."""

    class Profiler(trt.IProfiler):
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.sums: dict[str, float] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.sums[layer_name] = self.sums.get(layer_name, 0.0) + ms

    with instances(trt, engine, Case(batch)) as (lane,):
        profiler = Profiler()
        lane.run()
        lane.context.profiler = profiler
        for _ in range(runs):
            lane.run()
        return {name: total / runs for name, total in profiler.sums.items()}


def profile_for(shapes: Sequence[tuple[int, int, int]], batch: int) -> int:
    """Index of the profile to run a batch size with, of those (min, opt, max): the nearest preferred size.

    Raises BadInput where none takes it.
    """
    fitting = [index for index, (least, _, most) in enumerate(shapes) if least <= batch <= most]
    if not fitting:
        taken = " or ".join(f"{least} to {most}" for least, _, most in shapes)
        raise BadInput(f"--batch: is {batch}, and the plan takes {taken}")
    return min(fitting, key=lambda index: (abs(shapes[index][1] - batch), index))


def batches_of(engine: Any, name: str) -> list[tuple[int, int, int]]:
    """Smallest, preferred and largest batch of each profile."""
    found = []
    for index in range(engine.num_optimization_profiles):
        least, best, most = (int(shape[0]) for shape in engine.get_tensor_profile_shape(name, index))
        found.append((least, best, most))
    return found


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all are not above."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass
class _Buffer:
    """A tensor's memory on both sides."""

    name: str
    given: bool
    size: int
    device: int
    host: int


@dataclass
class _Set:
    """One batch's buffers and graph, and what is waited for: input there, computed, output fetched."""

    buffers: list[_Buffer] = field(default_factory=list)
    graph: int = 0
    start: int = 0
    arrived: int = 0
    computed: int = 0
    fetched: int = 0


class Lane:
    """An instance: a context, its streams, and a set of buffers for each batch that it has in flight."""

    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda
        self.sets: list[_Set] = []
        self.transfers = False
        self.context: Any = None
        self._next = 0
        self.compute, self._in, self._out = (cuda.stream() for _ in range(3))

    def prepare(self, trt: Any, engine: Any, batch: int, transfers: bool) -> None:
        """Makes the context and the sets of buffers, and captures the graphs."""
        cuda = self.cuda
        self.transfers = transfers
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        given = {name: engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names}
        first = next(name for name in names if given[name])
        profile = profile_for(batches_of(engine, first), batch)
        self.context = context(engine)
        if self.context is None:
            raise CudaError("TensorRT makes no context", OUT_OF_MEMORY)
        if engine.num_optimization_profiles > 1:
            self.context.set_optimization_profile_async(profile, self.compute)
        for name in (each for each in names if given[each]):
            self.context.set_input_shape(name, (batch, *tuple(engine.get_tensor_shape(name))[1:]))
        for _ in range(_SETS):
            made = _Set()
            self.sets.append(made)
            made.start, made.arrived, made.computed, made.fetched = (cuda.event() for _ in range(4))
            for name in names:
                dtype = engine.get_tensor_dtype(name)
                size = math.prod((batch, *tuple(engine.get_tensor_shape(name))[1:])) * dtype.itemsize
                buffer = _Buffer(name, given[name], size, cuda.allocate(size), cuda.allocate_host(size))
                made.buffers.append(buffer)
                fill(buffer.host, size, str(dtype).rpartition(".")[2])
                cuda.copy(buffer.device, buffer.host, size, self.compute)
            self._capture(made)

    def _capture(self, made: _Set) -> None:
        for buffer in made.buffers:
            self.context.set_tensor_address(buffer.name, buffer.device)
        self._enqueue()  # what TensorRT allocates at its first run can't be captured
        self.cuda.synchronize_stream(self.compute)
        self.cuda.begin_capture(self.compute)
        try:
            self._enqueue()
        finally:
            made.graph = self.cuda.end_capture(self.compute)
        self.cuda.launch(made.graph, self.compute)
        self.cuda.synchronize_stream(self.compute)

    def _enqueue(self) -> None:
        if not self.context.execute_async_v3(self.compute):
            raise CudaError("TensorRT refuses to run the engine")

    def run(self) -> None:
        """One batch by itself, without a graph."""
        self._enqueue()
        self.cuda.synchronize_stream(self.compute)

    def launch(self) -> _Set:
        """Enqueues one batch behind those that are under way, and gives the set that it uses."""
        cuda, used = self.cuda, self.sets[self._next]
        self._next = (self._next + 1) % len(self.sets)
        if not self.transfers:
            cuda.record(used.start, self.compute)
            cuda.launch(used.graph, self.compute)
            cuda.record(used.computed, self.compute)
            return used
        cuda.wait(self._in, used.computed)  # whoever computed with these buffers last has read them
        cuda.record(used.start, self._in)
        for buffer in used.buffers:
            if buffer.given:
                cuda.copy(buffer.device, buffer.host, buffer.size, self._in)
        cuda.record(used.arrived, self._in)
        cuda.wait(self.compute, used.arrived)
        cuda.wait(self.compute, used.fetched)
        cuda.launch(used.graph, self.compute)
        cuda.record(used.computed, self.compute)
        cuda.wait(self._out, used.computed)
        for buffer in used.buffers:
            if not buffer.given:
                cuda.copy(buffer.host, buffer.device, buffer.size, self._out)
        cuda.record(used.fetched, self._out)
        return used

    def end(self, used: _Set) -> int:
        """The event at which a launch with these buffers is over."""
        return used.fetched if self.transfers else used.computed

    def close(self) -> None:
        cuda = self.cuda
        for stream in (self._in, self.compute, self._out):
            cuda.synchronize_stream(stream)
        self.context = None
        for each in self.sets:
            for event in (each.start, each.arrived, each.computed, each.fetched):
                if event:
                    cuda.free_event(event)
            if each.graph:
                cuda.free_graph(each.graph)
            for buffer in each.buffers:
                cuda.free(buffer.device)
                cuda.free_host(buffer.host)
        for stream in (self._in, self.compute, self._out):
            cuda.free_stream(stream)
        self.sets = []


def fill(address: int, size: int, data_type: str) -> None:
    """Writes random numbers: zeros run faster than pictures do, and random bytes are no proper floats."""
    if data_type in ("FLOAT", "HALF", "BF16"):
        numbers = random.Random(1)
        if data_type == "FLOAT":
            block = array.array("f", (numbers.gauss(0, 1) for _ in range(_RANDOM_BLOCK // 16))).tobytes()
        else:  # exponents around 1 in either format, any mantissa
            words = (
                numbers.choice((0x3800, 0xB800)) | numbers.getrandbits(10) for _ in range(_RANDOM_BLOCK // 16)
            )
            block = array.array("H", words).tobytes()
    else:
        block = os.urandom(min(size, _RANDOM_BLOCK))
    for start in range(0, size, len(block)):
        ctypes.memmove(address + start, block, min(len(block), size - start))


def _ahead(lanes: list[Lane], seconds: float) -> float:
    """Launches a second."""
    cuda = lanes[0].cuda

    def run(rounds: int) -> float:
        began = perf_counter()
        for _ in range(rounds):
            for lane in lanes:
                lane.launch()
        cuda.synchronize()
        return perf_counter() - began

    rounds = 4
    while (took := run(rounds)) < max(_WARM_UP, seconds / 4):
        rounds *= 2
    rounds = max(4, round(rounds * seconds / took))
    return rounds * len(lanes) / run(rounds)


def _as_trtexec(lanes: list[Lane], seconds: float) -> float:
    """Launches a second."""
    cuda = lanes[0].cuda
    waiting: list[list[_Set]] = [[] for _ in lanes]

    def step() -> None:
        for lane, flying in zip(lanes, waiting, strict=True):
            flying.append(lane.launch())
        for lane, flying in zip(lanes, waiting, strict=True):
            if len(flying) == 2:
                cuda.synchronize_event(lane.end(flying.pop(0)))

    def drain() -> None:
        for lane, flying in zip(lanes, waiting, strict=True):
            while flying:
                cuda.synchronize_event(lane.end(flying.pop(0)))

    began = perf_counter()
    while perf_counter() - began < _WARM_UP:
        step()
    drain()
    began, iterations = perf_counter(), 0
    while perf_counter() - began < seconds or iterations < 10:
        step()
        iterations += 1
    drain()
    return iterations * len(lanes) / (perf_counter() - began)


def _latencies(lanes: list[Lane], seconds: float) -> list[float]:
    """Milliseconds of each launch while every instance has one in flight: 200 of each, fewer of slow ones."""
    cuda = lanes[0].cuda
    taken: list[float] = []
    began = perf_counter()
    while len(taken) < _LAUNCHES * len(lanes) and (len(taken) < 20 or perf_counter() - began < seconds):
        flying = [(lane, lane.launch()) for lane in lanes]
        for lane, used in flying:
            cuda.synchronize_event(lane.end(used))
            taken.append(cuda.milliseconds(used.start, lane.end(used)))
    return taken
