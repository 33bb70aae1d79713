"""`model-tools fetch`: a model directory from an object store, a web server or another folder."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from model_tools.bundle import SUMS, checksums, verify
from model_tools.console import BadInput
from model_tools.files import written_aside
from model_tools.stores import reason

_CHUNK = 1 << 20


@click.command("fetch", short_help="A model directory from an object store, a web server or a folder.")
@click.argument("source")
@click.argument("destination", metavar="DEST", type=click.Path(path_type=Path))
def command(source: str, destination: Path) -> None:
    """Copy the model directory at SOURCE to DEST and verify its checksums.

    SOURCE is a folder: a path, or a URL that fsspec opens, such as gs://, s3:// or https://. Its SHA256SUMS
    names the files. DEST holds all of them or is as it was before.
    """
    logging.disable(logging.CRITICAL)  # stores log what is raised too, with its stack
    fetch(source, destination)
    click.echo(f"{destination}: fetched from {source}")


def fetch(source: str, destination: Path) -> None:
    """Copies the files that `source`/SHA256SUMS names, and that file, to `destination`.

    Raises BadInput for a source that can't be read, and for a file that does not have its checksum.
    """
    with _filled(destination) as folder:
        _download(source, SUMS, folder)
        try:
            names = checksums((folder / SUMS).read_text(encoding="utf-8"), f"{source}/{SUMS}")
        except UnicodeDecodeError as error:
            raise BadInput(f"{source}/{SUMS}: is no list of checksums") from error
        for name in names:
            _download(source, name, folder)
        try:
            verify(folder)
        except BadInput as error:
            raise BadInput(str(error).replace(str(folder), source)) from error


def _download(source: str, name: str, folder: Path) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    address, target = f"{source.rstrip('/')}/{name}", folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    with (
        Progress(*columns, console=console, disable=name == SUMS or not console.is_terminal) as progress,
        _opened(address) as stream,
        target.open("wb") as out,
    ):
        task = progress.add_task(name, total=getattr(stream, "size", None))
        try:
            while chunk := stream.read(_CHUNK):
                out.write(chunk)
                progress.advance(task, len(chunk))
        except Exception as error:  # every store raises its own
            raise BadInput(f"{address}: broke off ({reason(error)})") from error


@contextmanager
def _opened(address: str) -> Iterator[Any]:
    import fsspec

    try:
        file = fsspec.open(address, "rb").open()
    except FileNotFoundError as error:
        # fsspec says so too when a web server can't be reached.
        raise BadInput(f"{address}: {reason(error.__cause__) if error.__cause__ else 'not found'}") from error
    except ImportError as error:
        raise BadInput(f"{address}: {error}") from error
    except Exception as error:  # every store raises its own
        raise BadInput(f"{address}: can't be opened ({reason(error)})") from error
    with file:
        yield file


@contextmanager
def _filled(destination: Path) -> Iterator[Path]:
    """As written_aside; a mounted folder, which can't be replaced, gets the files when all are there."""
    mounted = destination.is_dir() and (
        os.path.ismount(destination) or not os.access(destination.parent, os.W_OK)
    )
    if not mounted:
        with written_aside(destination) as folder:
            yield folder
        return
    try:
        aside = tempfile.TemporaryDirectory(prefix=".fetch-", dir=destination)
    except OSError as error:
        raise BadInput(f"{destination}: can't be written ({error.strerror})") from error
    with aside as folder_name:
        folder = Path(folder_name)
        yield folder
        # The checksums last: with them, the folder is a model directory.
        for file in sorted(folder.iterdir(), key=lambda file: file.name == SUMS):
            target = destination / file.name
            if target.is_dir():
                shutil.rmtree(target)
            file.replace(target)
