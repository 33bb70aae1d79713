"""What starts Triton asks for a restart before the container's memory is used up: the script, run by sh."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from .render import pods, render_chart

LIMIT = 1_000_000_000
UNLIMITED = {"v1": "9223372036854771712", "v2": "max"}
USED = {"v1": "memory/memory.usage_in_bytes", "v2": "memory.current"}
MOST = {"v1": "memory/memory.limit_in_bytes", "v2": "memory.max"}
STATISTICS = {"v1": "memory/memory.stat", "v2": "memory.stat"}

# It is given options as well, which sleep alone would refuse.
ASLEEP = ("sh", "-c", "sleep 60")


@dataclass
class Container:
    """A folder in place of a container's root, whose control group is files."""

    root: Path
    cgroup: str

    def holds(self, used: int, of_files: int = 0) -> None:
        inactive = of_files // 4
        kinds = {"cache": of_files, "inactive_file": inactive, "active_file": of_files - inactive}
        self.write(STATISTICS, "".join(f"{kind} {size}\n" for kind, size in kinds.items()))
        self.write(USED, f"{used}\n")

    def write(self, name: dict[str, str], text: str) -> None:
        file = self.root / "sys/fs/cgroup" / name[self.cgroup]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.with_suffix(".new").write_text(text)
        file.with_suffix(".new").replace(file)

    @property
    def full(self) -> str:
        file = self.root / "state/full"
        return file.read_text() if file.exists() else ""

    @contextmanager
    def started(self, *command: str) -> Iterator[subprocess.Popen[str]]:
        """The command, started by the chart's script; ended after the block."""
        triton = pods(render_chart({}))["Deployment inference-system-triton"]["spec"]["containers"][0]
        folders = r"(/sys/fs/cgroup|/state|/tmp)\b"
        for folder in ("sys/fs/cgroup", "state", "tmp"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        script = re.sub(folders, lambda found: f"{self.root}{found[0]}", triton["args"][2])
        script = script.replace("sleep 5", "sleep 0.05")
        words = [*triton["args"][:2], script, triton["args"][3], *command]
        process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            yield process
        finally:
            subprocess.run(["pkill", "-KILL", "--session", str(process.pid)], check=False)
            process.wait()


@pytest.fixture(params=["v1", "v2"])
def container(request: pytest.FixtureRequest, tmp_path: Path) -> Container:
    found = Container(tmp_path, request.param)
    found.write(MOST, f"{LIMIT}\n")
    return found


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_a_container_whose_memory_is_nearly_used_up_is_said_to_be_full(container: Container) -> None:
    container.holds(LIMIT // 100 * 84)
    with container.started(*ASLEEP):
        container.holds(LIMIT // 100 * 96)
        until(lambda: container.full == "Triton has taken 96 % of its memory\n", "a full container")
        container.holds(LIMIT // 100 * 50)
        until(lambda: not container.full, "a container that has memory again")


def test_pods_that_fill_up_alike_are_not_full_at_once(tmp_path: Path) -> None:
    """None at 84 %, all at 95 %, and at 90 % some: each chooses with like chances from eleven shares."""
    containers = [Container(tmp_path / str(number), "v2") for number in range(24)]

    def hold(percent: int) -> None:
        for container in containers:
            container.holds(LIMIT // 100 * percent)

    with ExitStack() as stack:
        for container in containers:
            container.write(MOST, f"{LIMIT}\n")
        hold(84)
        started = [stack.enter_context(container.started(*ASLEEP)) for container in containers]
        held(containers, started)
        hold(90)
        until(lambda: any(container.full for container in containers), "a full container")
        time.sleep(0.5)
        assert not all(container.full for container in containers)
        hold(95)
        until(lambda: all(container.full for container in containers), "full containers")


def test_pages_of_files_make_nothing_full(container: Container) -> None:
    """A model is read once, and the kernel keeps its pages while nobody else wants the memory."""
    container.holds(LIMIT // 100 * 99, of_files=LIMIT // 100 * 40)
    with container.started(*ASLEEP) as triton:
        held([container], [triton])


def test_without_a_limit_nothing_is_full(container: Container) -> None:
    container.write(MOST, f"{UNLIMITED[container.cgroup]}\n")
    container.holds(LIMIT * 1000)
    with container.started(*ASLEEP) as triton:
        held([container], [triton])
    assert triton.stderr is not None
    assert triton.stderr.read() == ""


def test_what_a_container_before_it_said_is_forgotten(container: Container) -> None:
    """By the next one too that looks at nothing, having no limit."""
    container.write(MOST, f"{UNLIMITED[container.cgroup]}\n")
    container.holds(LIMIT)
    (container.root / "state").mkdir()
    (container.root / "state/full").write_text("Triton has taken 90 % of its memory\n")
    with container.started("sh", "-c", f"cat {container.root}/state/full; echo ended") as triton:
        assert triton.stdout is not None
        assert triton.stdout.readline() == "ended\n"


def test_triton_starts_where_there_is_no_control_group_to_read(tmp_path: Path) -> None:
    container = Container(tmp_path, "v2")
    with container.started("echo") as triton:
        assert triton.stdout is not None
        said = triton.stdout.readline()
    file = tmp_path / "tmp/operator-key"
    assert file.stat().st_mode & 0o077 == 0
    key = file.read_text().strip()
    assert len(key) == 32
    assert (
        f"--http-restricted-api=model-repository,shared-memory,trace,logging,statistics:operator={key}"
        in said
    )


def held(containers: list[Container], started: list[subprocess.Popen[str]]) -> None:
    """Asserts that none is full for ten looks."""
    deadline = time.monotonic() + 0.5
    while time.monotonic() < deadline:
        assert not any(container.full for container in containers)
        assert all(triton.poll() is None for triton in started)
        time.sleep(0.05)
