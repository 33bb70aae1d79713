"""From a clean checkout to a served, loaded and judged model: `make demo`, `make test-e2e`.

Without KUBECONFIG everything happens on the embedded cluster. With it, on the cluster that it names:
REGISTRY says where that cluster pulls images from (or IMAGES, a values file, which ones it has), and VALUES
which values file describes it.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import click

from cluster import paths
from cluster.shell import tied
from model_tools.console import BadInput, CheckFailed, interrupted_by, run

ROOT = Path(__file__).parent
BUILD = ROOT / "build"
BIN = Path(sys.executable).parent
RELEASE = "inference-system"
NAMESPACE = "inference"
MODEL = BUILD / "model" / "resnet50"
IMAGES = BUILD / "images.yaml"
INSTALL_TIMEOUT = "10m"
CLUSTER_TESTS = "tests/e2e/test_cluster.py"
NOT_NIGHTLY = ("-m", "not nightly")
# Exported once a machine; a copy, so that whoever looks into build/ changes nothing of the cache.
EXPORT = """
import shutil, sys
from model_tools.export import cached_resnet50
shutil.copytree(cached_resnet50(), sys.argv[1], dirs_exist_ok=True)
"""


@dataclass(frozen=True)
class Step:
    """A command that runs once the steps it needs are done; its output goes to a log."""

    name: str
    command: Sequence[str | Path]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Target:
    """The cluster that the demo runs on: of `kubeconfig`, or else the embedded one.

    values: what describes it. A cluster of the user's pulls images from `registry`, where the demo pushes
    them, or has what the values file `images` names.
    """

    kubeconfig: str | None
    values: Path
    images: Path
    registry: str | None

    @classmethod
    def from_environment(cls) -> Target:
        kubeconfig, registry, images = (os.environ.get(name) for name in ("KUBECONFIG", "REGISTRY", "IMAGES"))
        values = ROOT / os.environ.get("VALUES", "values/local.yaml")
        for name, file in (("VALUES", values), ("KUBECONFIG", kubeconfig), ("IMAGES", images)):
            if file and not Path(file).is_file():
                raise BadInput(f"{name} names {file}, which is no file")
        if kubeconfig and not (registry or images):
            raise BadInput(
                "KUBECONFIG names a cluster of yours: REGISTRY=host/path must say where it pulls images from,"
                " or IMAGES which values file names those that it has"
            )
        if registry and images:
            raise BadInput("REGISTRY and IMAGES exclude each other: images are pushed, or there already")
        return cls(kubeconfig, values, Path(images) if images else IMAGES, registry)

    def reach(self, *command: str | Path) -> list[str | Path]:
        """The command as it must be called to reach the cluster's API server."""
        return list(command) if self.kubeconfig else [BIN / "cluster", "exec", "--", *command]

    def preparation(self, test_cluster: bool, marks: Sequence[str] = ()) -> list[Step]:
        """test_cluster: whether the embedded cluster is tested too, while all its GPUs are free; marks: which
        of its tests."""
        chart = Step("chart", [BIN / "python", "-m", "charts.package", BUILD / "chart"])
        if self.kubeconfig and not self.registry:
            return [chart, self.install(("chart",))]
        build: list[str | Path] = [BIN / "python", "-m", "images.build", "--values", self.images]
        push = ["--push", self.registry] if self.registry else []
        images = [
            chart,
            Step("model", [BIN / "python", "-c", EXPORT, MODEL]),
            Step("images", [*build, *push, "triton-cpu", "tools", "proxy"]),
            Step("model image", [*build, *push, "--model", MODEL, "model"], ("model", "images")),
        ]
        if self.kubeconfig:
            return [*images, self.install(("model image", "chart"))]
        keda = ["--with", "keda"] if test_cluster else []
        cluster = [
            Step("programs", [BIN / "cluster", "build", *keda]),
            Step("cluster", [BIN / "cluster", "up", "--images", IMAGES], ("programs", "model image")),
        ]
        if test_cluster:
            tests = self.reach(*pytest(CLUSTER_TESTS, *marks))
            cluster.append(Step("cluster tests", tests, ("cluster",)))
            cluster.append(Step("keda", [BIN / "cluster", "add", "keda"], ("cluster tests",)))
        return [*images, *cluster, self.install((cluster[-1].name, "chart"))]

    def install(self, needs: tuple[str, ...]) -> Step:
        command: list[str | Path] = [
            BIN / "python",
            "-m",
            "charts.install",
            RELEASE,
            BUILD / "chart",
            "--namespace",
            NAMESPACE,
        ]
        command += ["--values", self.values, "--values", self.images, "--timeout", INSTALL_TIMEOUT]
        return Step("install", self.reach(*command), needs)


def pytest(*arguments: str | Path) -> list[str | Path]:
    return [BIN / "python", "-m", "pytest", *arguments]


@dataclass
class Runner:
    """Runs steps as soon as what they need is done, and shows what runs and for how long."""

    logs: Path = BUILD / "logs"
    began: float = field(default_factory=time.monotonic)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def run(self, steps: Sequence[Step]) -> None:
        """Raises CheckFailed with the end of the log of the first step that fails."""
        self.logs.mkdir(parents=True, exist_ok=True)
        waiting = {step.name: step for step in steps}
        done: set[str] = set()
        futures: dict[Future[float], Step] = {}
        with self._display() as show, ThreadPoolExecutor(len(steps)) as pool:
            try:
                while waiting or futures:
                    for name in [name for name, step in waiting.items() if done.issuperset(step.needs)]:
                        step = waiting.pop(name)
                        futures[pool.submit(self._execute, step)] = step
                    finished, _ = wait(futures, timeout=1, return_when=FIRST_COMPLETED)
                    for future in finished:
                        step = futures.pop(future)
                        print(f"{self.clock()} {step.name}: done in {future.result():.0f} s", flush=True)
                        done.add(step.name)
                    show(", ".join(step.name for step in futures.values()))
            except BaseException:
                self._stop()
                raise

    def _execute(self, step: Step) -> float:
        log = self.logs / f"{step.name.replace(' ', '-')}.log"
        began = time.monotonic()
        with log.open("wb") as output:
            process = subprocess.Popen(
                tied(step.command),
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            self.running[step.name] = process
            status = process.wait()
            del self.running[step.name]
        if status:
            tail = log.read_text(errors="replace").splitlines()[-30:]
            print("\n".join(["", f"-- the end of {log}", *tail, ""]), file=sys.stderr)
            raise CheckFailed(f"the step '{step.name}' failed with status {status}; its log is {log}")
        return time.monotonic() - began

    def _stop(self) -> None:
        """As Ctrl-C on a terminal does, which these processes have none of."""
        for process in list(self.running.values()):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)

    def clock(self) -> str:
        minutes, seconds = divmod(round(time.monotonic() - self.began), 60)
        return f"[{minutes:2d}:{seconds:02d}]"

    @contextmanager
    def _display(self) -> Iterator[Callable[[str], None]]:
        """On a terminal, a line that says what runs now; elsewhere only the lines of finished steps."""
        from rich.console import Console

        console = Console(stderr=True)
        if not console.is_terminal:
            yield lambda text: None
            return
        with console.status("") as status:
            yield lambda text: status.update(f"{self.clock()} {text}")


def foreground(command: Sequence[str | Path]) -> int:
    """Runs a command that shows its own progress; its exit status."""
    # In a session of its own Ctrl-C reaches it once, from here, and it can end its load.
    with subprocess.Popen(tied(command), cwd=ROOT, start_new_session=True) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            os.killpg(process.pid, signal.SIGINT)
            raise


@contextmanager
def alone(target: Target) -> Iterator[None]:
    """One demo at a time in this checkout, and on a cluster: they would write the same files and release."""
    cluster = Path(target.kubeconfig).resolve() if target.kubeconfig else paths.name()

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    with ExitStack() as locks:
        for place in (ROOT, cluster):
            name = hashlib.sha256(str(place).encode()).hexdigest()[:12]
            locks.enter_context(paths.only_one(f"demo-{name}", "`make demo`", say))
        yield


def check(target: Target) -> None:
    if target.kubeconfig:
        from cluster.kube_tools import tools_folder

        os.environ["PATH"] = f"{tools_folder()}{os.pathsep}{os.environ['PATH']}"
    else:
        from cluster import preflight

        preflight.check()
        preflight.go()


@click.command()
@click.option("--test-e2e", is_flag=True, help="Run every end-to-end test, not just the SLO suite.")
@click.option("--nightly", is_flag=True, help="With --test-e2e: also those too long for every change.")
@click.option("--soak", type=float, metavar="SECONDS", help="Only a load of that long, and what grows.")
def cli(test_e2e: bool, nightly: bool, soak: float | None) -> int:
    """Installs the chart on a real Kubernetes, loads it, and reports its SLOs."""
    if nightly and not test_e2e:
        raise BadInput("--nightly needs --test-e2e")
    target = Target.from_environment()
    check(target)
    with interrupted_by(signal.SIGTERM, signal.SIGHUP), alone(target):
        return demo(target, test_e2e, nightly, soak)


def demo(target: Target, test_e2e: bool, nightly: bool, soak: float | None) -> int:
    """The exit status of the first command that fails, or of the tests. Raises CheckFailed."""
    runner = Runner()
    marks = () if nightly else NOT_NIGHTLY
    runner.run(target.preparation(test_e2e and not target.kubeconfig, marks))

    which = ["--release", RELEASE, "--namespace", NAMESPACE]
    if soak:
        test = pytest("-s", "tests/e2e/reliability/test_soak.py", *which, "--soak", str(soak))
        return foreground(target.reach(*test))
    load = BUILD / "load.json"
    # The suite below judges it, with what the server says.
    status = foreground(
        target.reach(BIN / "loadtest", "run", *which, "--replace", "--no-verdict", "--json", load)
    )
    if status:
        return status
    suite = (
        ["tests/e2e", f"--ignore={CLUSTER_TESTS}", *marks]
        if test_e2e
        else ["tests/e2e/slo", "--quiet", "--no-header"]
    )
    tests = pytest(*suite, *which, "--load", load, "--report", BUILD / "report")
    status = foreground(target.reach(*tests))
    print(f"{runner.clock()} the report is {BUILD / 'report' / 'index.html'}")
    return status


if __name__ == "__main__":
    run(cli, "demo")
