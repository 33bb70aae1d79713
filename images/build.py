"""Builds images without a daemon or a registry: `python -m images.build NAME...`

Prints the path of a Docker archive an image, for `cluster load-image`, and names what it built in
build/images.yaml, a values file for the chart. An image's tag is a hash of its inputs, so what was
built once is not built again.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

import click

from cluster import paths, preflight, shell
from cluster.paths import REPOSITORY
from cluster.progress import Steps
from images import base, buildah
from model_tools.console import BadInput, run

REGISTRY = "localhost/inference-system"
VALUES = REPOSITORY / "build" / "images.yaml"
MODEL = REPOSITORY / "build" / "model" / "resnet50"
# Of each image, for checkouts that take turns; what was used longest ago goes first.
KEPT = 3


@dataclass(frozen=True)
class Image:
    """One image: a Containerfile, the folder that its COPY lines start from, and maybe a target."""

    name: str
    containerfile: Path
    context: Path
    target: str = ""
    # Where the chart's values name it.
    values: tuple[str, ...] = field(default=())
    # The project's image that it is built on, which its Containerfile has as TRITON_IMAGE.
    on: Image | None = None
    # A tag that it is to have in place of its hash.
    label: str = ""

    @cached_property
    def tag(self) -> str:
        """First 12 hex digits of the hash of everything the build reads, as it is when first asked for."""
        digest = hashlib.sha256(f"{self.target}\0{self.on.tag if self.on else base.tag()}\0".encode())
        digest.update(self.containerfile.read_bytes())
        for path in inputs(self.containerfile.read_text(), self.context):
            digest.update(f"{path.relative_to(self.context)}\0{path.lstat().st_mode & 0o111}\0".encode())
            if path.is_symlink():
                digest.update(str(path.readlink()).encode())
            else:
                with path.open("rb") as content:
                    digest.update(hashlib.file_digest(content, "sha256").digest())
        return digest.hexdigest()[:12]

    def repository(self) -> str:
        return f"{REGISTRY}/{self.name}"

    def reference(self) -> str:
        return f"{self.repository()}:{self.label or self.tag}"

    @property
    def archive(self) -> str:
        """The name of its archive without the hash and the suffix."""
        return f"{self.name}-{self.label}" if self.label else self.name


def known(name: str, model: Path = MODEL, label: str = "") -> Image:
    """The project's image of that name. Raises BadInput for an unknown name or a bad model directory.

    label: the tag of a model's image in place of its hash, for values that name models by it.
    """
    folder = REPOSITORY / "images"
    if name == "model":
        return Image(
            f"model-{model_name(model)}",
            folder / "model/Containerfile",
            model.resolve(),
            "",
            ("model", "source"),
            label=label,
        )
    places = {
        "tools": ("tools",),
        "triton-cpu": ("triton",),
        "triton-tensorflow": ("triton",),
        "proxy": ("triton", "httpProxy"),
    }
    if name in places:
        containerfile = folder / name / "Containerfile"
        if not containerfile.exists():
            raise BadInput(f"image {name}: {containerfile} does not exist")
        on = known("triton-cpu") if name == "triton-tensorflow" else None
        return Image(name, containerfile, REPOSITORY, "", places[name], on)
    raise BadInput(f"no image is called {name}; there are: {', '.join(places)}, model")


def model_name(directory: Path) -> str:
    """The name in a model directory's model.json. Raises BadInput where there is none."""
    try:
        name = json.loads((directory / "model.json").read_text())["name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{directory} is not a model directory: model.json: {error}") from error
    if not re.fullmatch(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?", str(name)):
        raise BadInput(f"{directory}/model.json: {name!r} can't be a part of an image's name")
    return str(name)


def inputs(containerfile: str, context: Path) -> Iterator[Path]:
    """The files that the COPY and ADD lines of a Containerfile read from the context, in a fixed order."""
    for line in containerfile.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if (
            not words
            or words[0].upper() not in ("COPY", "ADD")
            or any(w.startswith("--from=") for w in words)
        ):
            continue
        *sources, _ = [word for word in words[1:] if not word.startswith("--")]
        for source in sources:
            path = context / source
            if not path.exists():
                raise BadInput(f"{path}, which an image copies, does not exist")
            files = (
                [path] if path.is_file() else sorted(found for found in path.rglob("*") if not found.is_dir())
            )
            yield from (file for file in files if "__pycache__" not in file.parts)


def build(image: Image) -> Path:
    """A Docker archive of the image, built unless the cache has it. Raises StepFailed with a log."""
    archive = buildah.folder() / f"{image.archive}-{image.tag}.tar"
    with paths.making(f"image-{image.name}"):
        if not archive.exists():
            paths.remove_halves(buildah.folder(), f"{image.archive}-{'[0-9a-f]' * 12}.making*")
            if image.on:
                build_in_store(image.on)
            build_in_store(image)
            making = archive.with_suffix(".making")
            # Not an OCI archive: buildah compresses its layers, and every node would expand them again.
            destination = f"docker-archive:{making}:{image.reference()}"
            buildah.call(image.name, "push", image.reference(), destination)
            making.rename(archive)
            archives = buildah.folder().glob(f"{image.archive}-{'[0-9a-f]' * 12}.tar")
            if image.label:
                for outdated in older(archives, kept=1):  # the label is the newest one's
                    outdated.unlink()
            else:
                forget(image.name, older(archives))
        archive.touch()
    return archive


def older(archives: Iterable[Path], kept: int = KEPT) -> list[Path]:
    """All but the archives, or folders, that were used last."""
    return sorted(archives, key=lambda archive: archive.stat().st_mtime, reverse=True)[kept:]


def forget(name: str, archives: list[Path]) -> None:
    """Removes archives of an image, and what only they need from buildah's store.

    What another build uses at the time, or one that was killed left in use, stays until a later call.
    """
    for archive in archives:
        tag = archive.stem.removeprefix(f"{name}-")
        if buildah.exists(f"{REGISTRY}/{name}:{tag}"):
            with suppress(shell.StepFailed):
                buildah.call(name, "rmi", "--force", f"{REGISTRY}/{name}:{tag}")
        archive.unlink()
    if archives:
        with suppress(shell.StepFailed):
            buildah.call(name, "rmi", "--prune")


def build_in_store(image: Image) -> None:
    """Leaves the image in buildah's store, under its reference."""
    from_base = ["--build-arg", f"BASE_IMAGE={base.ensure()}"]
    if image.on:
        from_base += ["--build-arg", f"TRITON_IMAGE={image.on.reference()}"]
    target = ["--target", image.target] if image.target else []
    with buildah.package_access() as volumes:
        buildah.call(
            image.name,
            "bud", "--format", "oci", "--layers", "--pull-never", *from_base, *target, *volumes,
            "--tag", image.reference(), "--file", image.containerfile, image.context,
        )  # fmt: skip


@cache
def docker_runs() -> bool:
    """Whether there is a Docker whose engine answers; the command alone builds nothing."""
    try:
        return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def push(image: Image, registry: str) -> str:
    """Puts the image into a registry, for a cluster that pulls; returns its reference there.

    Docker builds it where it runs, from the Containerfile's own base; elsewhere buildah does, as
    root. Raises StepFailed with a log, BadInput where neither can be used.
    """
    there = f"{registry.rstrip('/')}/{image.name}:{image.label or image.tag}"
    if docker_runs():
        build_it: list[str | Path] = ["docker", "build", "--tag", there, "--file", image.containerfile]
        if image.on:
            build_it += ["--build-arg", f"TRITON_IMAGE={push(image.on, registry)}"]
        build_it += [*(["--target", image.target] if image.target else []), image.context]
        shell.run(build_it, buildah.log(image.name), f"image {image.name}: docker build")
        shell.run(["docker", "push", there], buildah.log(image.name), f"image {image.name}: docker push")
    else:
        build(image)
        buildah.call(image.name, "push", image.reference(), f"docker://{there}")
    return there


def write_values(images: list[Image], path: Path = VALUES, registry: str = REGISTRY) -> None:
    """Names the images in a values file, keeping what it says of others."""
    import yaml

    values = (yaml.safe_load(path.read_text()) if path.exists() else None) or {}
    for image in images:
        place = values
        for key in image.values:
            place = place.setdefault(key, {})
        place["image"] = {
            "repository": f"{registry.rstrip('/')}/{image.name}",
            "tag": image.label or image.tag,
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    making = path.with_suffix(".making")
    # Quoted: PyYAML leaves a tag such as 140980250e51 bare, which Helm's YAML reads as a number.
    making.write_text(yaml.safe_dump(values, sort_keys=True, default_style='"'))
    making.rename(path)


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    default=MODEL,
    help="Directory that `model-tools export` made, for the image model.  [default: build/model/resnet50]",
)
@click.option(
    "--values",
    type=click.Path(path_type=Path, dir_okay=False),
    default=VALUES,
    help="Values file to name the images in.  [default: build/images.yaml]",
)
@click.option("--tag", "label", default="", help="Tag of the image model.  [default: a hash of its content]")
@click.option(
    "--push", "registry", metavar="HOST/PATH", help="Push to this registry instead of writing archives."
)
def cli(names: tuple[str, ...], model: Path, values: Path, label: str, registry: str | None) -> None:
    """Builds images (tools, triton-cpu, triton-tensorflow, proxy, model), prints where they are, writes a
    values file."""
    if label and not re.fullmatch(r"\w[\w.-]{0,127}", label):
        raise BadInput(f"--tag {label}: is no image's tag")
    images = [known(name, model, label) for name in names]
    with Steps() as steps:
        if not (registry and docker_runs()):
            preflight.root()
            missing = preflight.missing_packages()
            if missing:
                with steps.step(f"Debian packages: {', '.join(missing)}"):
                    preflight.install(missing, preflight.log())
        for image in images:
            with steps.step(f"image {image.name}"):
                made = push(image, registry) if registry else build(image)
            click.echo(made)
    write_values(images, values, registry or REGISTRY)


if __name__ == "__main__":
    run(cli, "images.build")
