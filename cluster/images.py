"""Images in the nodes' containerds: nothing is pulled, all are imported."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster import paths, shell
from cluster.components import KUBERNETES
from cluster.control import REPOSITORY, wait_for_runtime
from cluster.node import Node, containerd_config, copy_seed
from images import base, buildah
from images.build import Image, build, forget, older
from model_tools.console import BadInput

CONTAINERFILE = paths.REPOSITORY / "images" / "cluster" / "Containerfile"
TAG = "[0-9a-f]" * 12
CONTROL_PLANE = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy")


def cluster_tag(programs: dict[str, Path]) -> str:
    """A tag for all images of the cluster: a hash of their programs, their Containerfile and their base."""
    digest = hashlib.sha256(CONTAINERFILE.read_bytes() + base.tag().encode())
    for folder in sorted(programs.values()):
        digest.update(folder.name.encode())
    return digest.hexdigest()[:12]


def reference(name: str, tag: str) -> str:
    return f"{REPOSITORY}/{name}:{tag}"


def names(tag: str) -> dict[str, list[str]]:
    """The targets of the Containerfile, and the references that each goes by."""
    version = KUBERNETES.version("k8s.io/kubernetes")
    single = (
        "pause",
        "coredns",
        "kube-network-policies",
        "prometheus-operator",
        "prometheus",
        "kube-state-metrics",
        "alertmanager",
    )
    kubernetes = [reference(name, version) for name in CONTROL_PLANE] + [reference("etcd", tag)]
    return {"kubernetes": kubernetes, **{name: [reference(name, tag)] for name in single}}


@contextmanager
def seed(programs: dict[str, Path], tag: str, values: Path | None = None) -> Iterator[Path]:
    """A containerd's folder that holds the cluster's images, made unless the cache has it.

    While it is used no other process makes one, and so removes this. values: a values file of images.build;
    the folder then holds its images as well, so that they are imported once and not into every node. Raises
    BadInput for an image that is not built, StepFailed.
    """
    done = buildah.folder() / f"seed-{tag}"
    with paths.making("seed"):
        if not done.exists():
            _make_seed(programs, tag, done)
        _keep_seed(done, f"seed-{TAG}")
        if values:
            done = _extended(done, tag, [archive for _, archive in built(values)])
            _keep_seed(done, f"seed-{TAG}-{TAG}")
        yield done


def _make_seed(programs: dict[str, Path], tag: str, done: Path) -> None:
    making = _clean(done.with_name("seed.making"))
    (making / "root").mkdir()
    made, script = [], []
    for image in _images(programs, making / "context"):
        made.append((image.name, build(image)))
        script.append(_import_line(made[-1][1]))
        script.append(
            f"ctr --namespace k8s.io images tag {image.reference()} {' '.join(names(tag)[image.target])}"
        )
    _in_containerd(making, tag, script)
    (making / "root").rename(done)
    shutil.rmtree(making)
    for name, archive in made:
        forget(name, [archive])  # the seed has it


def _extended(seed: Path, tag: str, archives: list[Path]) -> Path:
    """A seed with more images."""
    key = hashlib.sha256("\0".join(sorted(archive.name for archive in archives)).encode()).hexdigest()[:12]
    done = seed.with_name(f"{seed.name}-{key}")
    if not done.exists():
        making = _clean(done.with_name("seed.making"))
        copy_seed(seed, making / "root")
        _in_containerd(making, tag, [_import_line(archive) for archive in archives])
        (making / "root").rename(done)
        shutil.rmtree(making)
    return done


def _keep_seed(seed: Path, pattern: str) -> None:
    """Notes that it was used. Of its kind those used last are kept, for checkouts that take turns."""
    os.utime(seed)
    for other in older(seed.parent.glob(pattern)):
        shutil.rmtree(other)  # running nodes have links of their own


def _clean(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def _import_line(archive: Path) -> str:
    return f"ctr --namespace k8s.io images import {shlex.quote(str(archive))}"


def _in_containerd(folder: Path, tag: str, script: list[str]) -> None:
    """Runs shell lines beside a containerd whose files are in folder/root, in namespaces that end with it."""
    (folder / "config.toml").write_text(containerd_config(reference("pause", tag)))
    lines = [
        "mount -t tmpfs tmpfs /run && mount -t proc proc /proc",
        'containerd --config "$1/config.toml" --root "$1/root" & daemon=$!',
        "until ctr version > /dev/null 2>&1; do kill -0 $daemon || exit 1; sleep 0.1; done",
        "set -e",
        *script,
        "kill $daemon; wait $daemon || true",
    ]
    shell.run(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", "\n".join(lines), "sh", folder],
        paths.cache() / "log" / "seed.log",
        "importing images",
    )


def _images(programs: dict[str, Path], context: Path) -> list[Image]:
    """The cluster's images; their context gets a folder a component, its programs linked."""
    context.mkdir()
    for component, folder in programs.items():
        shutil.copytree(
            folder,
            context / component,
            symlinks=True,
            copy_function=os.link,
            ignore=shutil.ignore_patterns("*.yaml"),
        )
    return [Image(f"cluster-{target}", CONTAINERFILE, context, target) for target in names("")]


def load(nodes: list[Node], archives: list[Path]) -> None:
    """Imports OCI or Docker archives into every node. Raises BadInput for what is no archive, StepFailed."""
    for archive in archives:
        if not archive.is_file() or not tarfile.is_tarfile(archive):
            raise BadInput(f"{archive} is no image archive")
    with shell.side_by_side(len(nodes)) as pool:
        list(pool.map(lambda node: _import(node, archives), nodes))


def load_missing(nodes: list[Node], values: Path) -> None:
    """Imports what a values file of images.build names into the nodes that lack it; a tag tells the content.

    Raises BadInput for an image that is not built, StepFailed.
    """
    wanted = built(values)

    def load_into(node: Node) -> None:
        there = _present(node)
        _import(node, [archive for reference, archive in wanted if reference not in there])

    with shell.side_by_side(len(nodes)) as pool:
        list(pool.map(load_into, nodes))


def built(values: Path) -> list[tuple[str, Path]]:
    """References and archives of the images that a values file of images.build names.

    Raises BadInput for one that is not built.
    """
    import yaml

    def images_in(tree: object) -> Iterator[dict[str, str]]:
        if isinstance(tree, dict):
            for key, value in tree.items():
                if key == "image" and isinstance(value, dict):
                    yield value
                else:
                    yield from images_in(value)

    found = []
    for image in images_in(yaml.safe_load(values.read_text())):
        named = f"{image['repository']}:{image['tag']}"
        archive = buildah.folder() / f"{image['repository'].rsplit('/', 1)[-1]}-{image['tag']}.tar"
        if not archive.exists():
            raise BadInput(f"{values} names {named}, which is not built: {archive}")
        found.append((named, archive))
    return found


def _present(node: Node) -> set[str]:
    wait_for_runtime(node)
    listed = node.command(
        "ctr", "--namespace", "k8s.io", "images", "ls", "--quiet", namespaces="--mount --pid"
    )
    return set(shell.output(listed).split())


def _import(node: Node, archives: list[Path]) -> None:
    wait_for_runtime(node)
    for archive in archives:
        with archive.open("rb") as content:
            # Unpacked where and when a container first needs it, which for most images is not on every node.
            command = node.command(
                "ctr", "--namespace", "k8s.io", "images", "import", "--no-unpack", "-",
                namespaces="--mount --pid",
            )  # fmt: skip
            shell.run(
                command, node.log("images"), f"importing {archive.name} into {node.name}", stdin=content
            )
