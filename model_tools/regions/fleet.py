"""The regions of a fleet: where each release is, and which values it has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from model_tools.console import BadInput
from model_tools.values import load_values

FLEET, REGIONS = Path("values/fleet.yaml"), Path("values/regions")
RELEASE, NAMESPACE = "inference-system", "inference"


@dataclass(frozen=True)
class Region:
    """One release. files: its values, of which the last wins. context: of the kubeconfig."""

    name: str
    context: str
    files: tuple[Path, ...] = ()
    release: str = RELEASE
    namespace: str = NAMESPACE


def region_files(given: Sequence[Path]) -> list[Path]:
    """The regions' values files: those that were given, or the project's. Raises BadInput where none are."""
    files = list(given) or sorted(REGIONS.glob("*.yaml"))
    if not files:
        raise BadInput(f"{REGIONS}: holds no values of a region")
    return files


def read_regions(
    fleet: Path,
    files: Iterable[Path],
    contexts: Mapping[str, str],
    over: Sequence[Path] = (),
    release: str = RELEASE,
    namespace: str = NAMESPACE,
) -> list[Region]:
    """In the order of an upgrade: as given, but what holds the Gateway last: its routes need the others.

    contexts: by region, where it is not the region's own name; over: values laid over each region's. Raises
    BadInput for a file without a region, a region that two files name, and a context of no region.
    """
    found: list[Region] = []
    last: list[Region] = []
    for file in files:
        layers = (fleet, file, *over)
        values = load_values(layers)
        name = values["region"]
        if not name:
            raise BadInput(f"{file}: region: is empty")
        region = Region(name, contexts.get(name, name), layers, release, namespace)
        (last if values["routing"]["configCluster"] == name else found).append(region)
    regions = [*found, *last]
    names = [region.name for region in regions]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadInput(f"region: {', '.join(twice)} is named by two files")
    if strange := sorted({*contexts} - {*names}):
        raise BadInput(f"--context {strange[0]}: is none of the regions, {', '.join(names)}")
    return regions
