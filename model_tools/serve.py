"""`model-tools serve`: a local Triton on a model repository."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic
from urllib.error import URLError
from urllib.request import urlopen

import click

from model_tools.console import BadInput, interrupted_by
from model_tools.runtime import Runtime, triton_runtime

EXIT_SECONDS = 10  # that Triton gives requests in flight when it stops
SHARED_MEMORY = "/dev/shm/triton_"  # what it shares with its backends' processes begins so
_FAILED = re.compile(r"failed to load '(?P<model>[^']+)' version (?P<version>\d+): (?P<reason>.*?)\"?$")


@click.command("serve", short_help="A local Triton on a model repository.")
@click.argument("repository", metavar="REPO", type=click.Path(path_type=Path))
@click.argument("options", metavar="[-- TRITON_OPTIONS]", nargs=-1)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 is all.")
@click.option("--http-port", default=8000, show_default=True, type=click.IntRange(1, 65535))
@click.option("--grpc-port", default=8001, show_default=True, type=click.IntRange(1, 65535))
@click.option("--metrics-port", default=8002, show_default=True, type=click.IntRange(1, 65535))
@click.option(
    "--timeout",
    default=120,
    show_default=True,
    type=click.IntRange(1),
    help="Seconds until the models are ready.",
)
def command(
    repository: Path,
    options: tuple[str, ...],
    host: str,
    http_port: int,
    grpc_port: int,
    metrics_port: int,
    timeout: int,
) -> None:
    """Serve a Triton model repository on this machine, with no cluster.

    Triton's log goes to stderr. Ends with Ctrl-C or SIGTERM, after the requests in flight. What follows `--`
    is passed to Triton: `-- --cache-config=local,size=100000000` for models with a response cache.
    """
    with (
        # SIGINT too: a shell's script has it ignored in what it starts in the background.
        interrupted_by(signal.SIGINT, signal.SIGTERM, signal.SIGHUP),
        LocalTriton(
            repository,
            host,
            http_port,
            grpc_port,
            metrics_port,
            timeout,
            log=lambda line: print(line, file=sys.stderr),
            options=options,
        ) as triton,
        contextlib.suppress(KeyboardInterrupt),
    ):
        click.echo(f"ready: HTTP {triton.http}, gRPC {triton.grpc}, metrics {triton.metrics}/metrics")
        status = triton.wait()
        raise BadInput(f"Triton ended by itself, with status {status}; its log says why")
    click.echo("stopped")


class LocalTriton:
    """A Triton process that serves `repository`, as a context manager: ready inside the block, gone after it.

    `http` and `grpc` are host:port, `log` takes each line that Triton writes, a port of 0 is any free one,
    `options` are more of Triton's own, `runtime` the Triton to start where it is not the local one,
    `exit_seconds` what requests in flight get when it stops: 0 ends it at once, where its own end takes
    seconds.
    Raises BadInput for a repository without models, a port in use, or a model that does not load, with
    Triton's reason.
    """

    def __init__(
        self,
        repository: Path,
        host: str = "127.0.0.1",
        http_port: int = 0,
        grpc_port: int = 0,
        metrics_port: int = 0,
        timeout: float = 120,
        log: Callable[[str], None] = lambda line: None,
        options: Sequence[str] = (),
        runtime: Runtime | None = None,
        exit_seconds: int = EXIT_SECONDS,
    ) -> None:
        self._exit_seconds = exit_seconds
        self._repository = repository
        self._runtime = runtime
        self._host = host
        self._ports = {"http": http_port, "grpc": grpc_port, "metrics": metrics_port}
        self._timeout = timeout
        self._log = log
        self._options = options
        self._failures: list[str] = []
        self._last = ""
        self._process: subprocess.Popen[str] | None = None

    @property
    def http(self) -> str:
        return f"{self._reachable}:{self._ports['http']}"

    @property
    def grpc(self) -> str:
        return f"{self._reachable}:{self._ports['grpc']}"

    @property
    def metrics(self) -> str:
        return f"{self._reachable}:{self._ports['metrics']}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> LocalTriton:
        _check_repository(self._repository)
        with self._choose_ports():
            self._start(self._runtime or triton_runtime(_needs_tensorflow(self._repository)))
            try:
                self._wait_until_ready()
            except BaseException:
                self.stop()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait(self) -> int:
        """Waits for Triton's own end and gives its status."""
        assert self._process is not None
        return self._process.wait()

    def stop(self) -> None:
        """Ends Triton and every process that it started; requests in flight get `exit_seconds`."""
        process = self._process
        if process is None:
            return
        shared = _shared_memory(process.pid)
        if self._exit_seconds:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(self._exit_seconds + 5)
        # Whatever is left of its process group: backends' processes, or a Triton that does not end.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self._reader.join()
        for file in shared:  # it removes them itself where it ends in order
            file.unlink(missing_ok=True)

    @property
    def _reachable(self) -> str:
        return "127.0.0.1" if self._host == "0.0.0.0" else self._host

    def _choose_ports(self) -> contextlib.ExitStack:
        """Refuses ports in use and takes free ones where 0 is asked for. It keeps them while open."""
        taken: set[int] = set()
        with contextlib.ExitStack() as stack:
            for name, port in self._ports.items():
                kept = stack.enter_context(socket.socket())
                # So that a server may still bind and listen there, where nobody gets it as any free port.
                kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    if port in taken:  # which no bind refuses before one of them is listened at
                        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
                    kept.bind((self._host, port))
                except OSError as error:
                    raise BadInput(
                        f"--{name}-port: {self._host}:{port} can't be used ({error.strerror})"
                    ) from error
                self._ports[name] = kept.getsockname()[1]
                taken.add(self._ports[name])
            return stack.pop_all()

    def _start(self, runtime: Runtime) -> None:
        options = {
            "model-repository": self._repository.resolve(),
            "backend-directory": runtime.backends,
            "cache-directory": runtime.root / "caches",
            "disable-auto-complete-config": None,
            "exit-on-error": "true",
            "rate-limit": "execution_count",  # as in the chart, which says why
            "exit-timeout-secs": self._exit_seconds,
            "http-address": self._host,
            "grpc-address": self._host,
            "metrics-address": self._host,
        } | {f"{name}-port": port for name, port in self._ports.items()}
        arguments = [f"--{name}" + ("" if value is None else f"={value}") for name, value in options.items()]
        self._process = subprocess.Popen(
            [runtime.server, *arguments, *self._options],
            env=runtime.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C reaches this process alone, which ends Triton in order
            preexec_fn=_end_with_parent,
        )
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()

    def _read_log(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            line = line.rstrip()
            self._log(line)
            if failed := _FAILED.search(line):
                self._failures.append(_failure(**failed.groupdict()))
            if line and line[0] in "Ee":
                self._last = line

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = monotonic() + self._timeout
        while True:
            with (
                contextlib.suppress(URLError, OSError),
                urlopen(f"http://{self.http}/v2/health/ready", timeout=1),
                urlopen(f"http://{self.metrics}/metrics", timeout=1),  # which Triton opens last
            ):
                return
            try:
                self._process.wait(0.1)
            except subprocess.TimeoutExpired:
                if monotonic() > deadline:
                    raise BadInput(
                        f"Triton is not ready after {self._timeout:g} s; its log says more"
                    ) from None
                continue
            self._reader.join()
            raise BadInput("; ".join(self._failures) or f"Triton ended before it was ready: {self._last}")


def _check_repository(repository: Path) -> None:
    if not repository.is_dir():
        raise BadInput(f"{repository}: no such folder")
    if not any(repository.glob("*/config.pbtxt")):
        raise BadInput(f"{repository}: holds no model (no */config.pbtxt); model-tools repository writes one")


def _needs_tensorflow(repository: Path) -> bool:
    """Whether a model of it runs on TensorFlow, which is installed for Triton only then."""
    configs = (
        file.read_text(encoding="utf-8", errors="replace") for file in repository.glob("*/config.pbtxt")
    )
    return any(re.search(r'^\s*backend:\s*"tensorflow"', config, re.MULTILINE) for config in configs)


def _failure(model: str, version: str, reason: str) -> str:
    """Triton's reason without the names of exception classes and the Python stack after it."""
    reason = reason.replace('\\"', '"').split("\\n\\nAt:")[0].replace("\\n", " ").strip()
    for prefix in ("Internal: ", "TritonModelException: "):
        reason = reason.removeprefix(prefix)
    return f"model {model} version {version} does not load: {reason}"


def _shared_memory(pid: int) -> set[Path]:
    """The files of shared memory that a Triton has made; none of one that has ended."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except OSError:
        return set()
    names = (line.split(maxsplit=5)[-1] for line in lines)
    return {Path(name) for name in names if name.startswith(SHARED_MEMORY) and not name.endswith("(deleted)")}


def _end_with_parent() -> None:
    """In the new process: have the kernel end it when this one is killed."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
