"""What starts Triton asks for a restart before the container's memory is used up: the script, run by sh."""

from __future__ import annotations

import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.waiting import until

from .container import MOST, Container

LIMIT = 1_000_000_000
UNLIMITED = {"v1": "9223372036854771712", "v2": "max"}
# It is given options as well, which sleep alone would refuse.
ASLEEP = ("sh", "-c", "sleep 60")


@pytest.fixture(params=["v1", "v2"])
def container(request: pytest.FixtureRequest, tmp_path: Path) -> Container:
    found = Container(tmp_path, request.param)
    found.write(MOST, f"{LIMIT}\n")
    return found


def test_a_container_whose_memory_is_nearly_used_up_is_said_to_be_full(container: Container) -> None:
    container.holds(LIMIT // 100 * 84)
    with container.started(*ASLEEP):
        container.holds(LIMIT // 100 * 96)
        until(lambda: container.full == "Triton has taken 96 % of its memory\n", "a full container", 30, 0.02)
        container.holds(LIMIT // 100 * 50)
        until(lambda: not container.full, "a container that has memory again", 30, 0.02)


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
        until(lambda: any(container.full for container in containers), "a full container", 30, 0.02)
        time.sleep(0.5)
        assert not all(container.full for container in containers)
        hold(95)
        until(lambda: all(container.full for container in containers), "full containers", 30, 0.02)


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
    with Container(tmp_path, "v2").started("echo", "started") as triton:
        assert triton.stdout is not None
        assert triton.stdout.readline().startswith("started ")


def held(containers: list[Container], started: list[subprocess.Popen[str]]) -> None:
    """Asserts that none is full for ten looks."""
    deadline = time.monotonic() + 0.5
    while time.monotonic() < deadline:
        assert not any(container.full for container in containers)
        assert all(triton.poll() is None for triton in started)
        time.sleep(0.05)
