"""The base image where no registry is at hand: Debian's own bootstrap, as small as debian:bookworm-slim."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from pathlib import Path

from cluster import paths, shell
from images import buildah

RELEASE = "bookworm"
# What the slim image of Debian leaves out as well.
UNWANTED = [
    "usr/share/doc",
    "usr/share/man",
    "usr/share/info",
    "usr/share/locale",
    "var/cache/apt",
    "var/lib/apt/lists",
]
MIRROR = "http://deb.debian.org/debian"


# RELEASE FOLDER MIRROR ARCHIVE
SCRIPT = f"""set -e
debootstrap --variant=minbase "$1" "$2" "$3"
cd "$2"
rm -rf {" ".join(UNWANTED)}
mkdir -p var/lib/apt/lists/partial var/cache/apt/archives/partial
rm -f etc/resolv.conf etc/hostname var/log/*.log
tar --create --numeric-owner --one-file-system --exclude "./dev/*" --exclude "./proc/*" --exclude "./sys/*" \\
    --file "$2.tar" .
mv "$2.tar" "$4"
cd / && rm -rf "$2"
"""


def tag() -> str:
    return hashlib.sha256(f"{RELEASE} {SCRIPT}".encode()).hexdigest()[:12]


def name() -> str:
    return f"localhost/inference-system/base:{tag()}"


def ensure() -> str:
    """The base image's name, made if the store has none."""
    with paths.making("base"):
        if not buildah.exists(name()):
            _build()
    return name()


def _build() -> None:
    context = rootfs().parent
    (context / "Containerfile").write_text('FROM scratch\nADD rootfs.tar /\nCMD ["bash"]\n')
    buildah.call(
        "base", "bud", "--format", "oci", "--tag", name(), "--file", context / "Containerfile", context
    )


def rootfs() -> Path:
    """A tar of the bootstrapped system, from the cache."""
    done = buildah.folder() / f"base-{tag()}" / "rootfs.tar"
    if done.exists():
        return done
    done.parent.mkdir(parents=True, exist_ok=True)
    paths.remove_halves(done.parent, "making*")
    making = done.parent / "making"
    shell.run(
        [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            SCRIPT,
            "sh",
            RELEASE,
            making,
            mirror(),
            done,
        ],
        buildah.log("base"),
        "debootstrap",
        env=_proxies(),
    )
    return done


def mirror() -> str:
    """Where this machine gets the release from: a Debian mirror in apt's sources, else Debian's own."""
    sources = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    text = "\n".join(
        file.read_text() for file in sources if file.suffix in (".list", ".sources") and file.is_file()
    )
    return find_mirror(text)


def find_mirror(sources: str) -> str:
    """The first URI that serves RELEASE's main suite in the text of apt's sources, of either format."""
    for line in re.findall(r"^deb\s.*$", sources, re.MULTILINE):
        found = re.search(rf"(\S+://\S+)\s+{RELEASE}\s.*\bmain\b", line)
        if found:
            return found[1].rstrip("/")
    for stanza in re.split(r"\n\s*\n", sources):
        uri = re.search(r"^URIs:\s*(\S+)", stanza, re.MULTILINE)
        if uri and re.search(rf"^Suites:.*\b{RELEASE}(\s|$)", stanza, re.MULTILINE):
            return uri[1].rstrip("/")
    return MIRROR


def _proxies() -> dict[str, str]:
    """debootstrap fetches by itself, so it is told the proxy that apt uses."""
    said = subprocess.run(
        ["apt-config", "shell", "http_proxy", "Acquire::http::Proxy", "https_proxy", "Acquire::https::Proxy"],
        capture_output=True, text=True, check=False,
    ).stdout  # fmt: skip
    return {key: value for key, value in re.findall(r"(\w+)='([^']*)'", said) if key not in os.environ}
