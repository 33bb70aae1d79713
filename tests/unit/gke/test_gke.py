"""What `python -m gke` would do is in golden files; that it does no more is seen on a cloud of files."""

from __future__ import annotations

import io
import os
import subprocess
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import yaml

from gke.cli import cli
from model_tools.console import run

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = Path(__file__).parent / "golden"

# Stands for gcloud, kubectl and helm. A thing is a file, named by the words of the command that are neither
# its verb nor an option, and by where it is. In the shell's own words alone: hundreds of them start here.
CLOUD = r"""#!/usr/bin/env bash
tool=${0##*/} does=other name=${0##*/} plain=yes last=
echo "$tool $*" >> "$CLOUD/calls"
if [[ -n ${CLOUD_FAILS:-} && "$tool $*" == *"$CLOUD_FAILS"* ]]; then echo "$CLOUD_SAYS" >&2; exit 1; fi
for word in "$@"; do
    case $tool$last in
        kubectl--cluster) ;;
        *--location | *--cluster | *--map | *--context | *--kube-context) name+=" $word" ;;
    esac
    last=$word
    [[ $word == -* ]] && plain=
    [[ $plain ]] || continue
    case $word in
        describe | get | get-contexts | status) does=look ;;
        create | enable | register | set-context | get-credentials) does=make ;;
        delete | disable | unregister | delete-context | uninstall) does=remove ;;
        *.googleapis.com) ;;
        *) name+=" $word" ;;
    esac
done
case "$name" in
    "gcloud projects"*) echo 12345; exit ;;
    *accelerator-types*) printf 'zone-a\nzone-b\n'; exit ;;
esac
if [[ $* == *get-credentials* ]]; then
    name="kubectl config gke_my-project_${4#inference-}_$4"
fi
thing=$CLOUD/${name//\//_}
case $does in
    make) : > "$thing" ;;
    look | remove)
        if [[ ! -e $thing ]]; then
            case $tool in
                kubectl) echo "error: context $3 not found" >&2 ;;
                helm) echo "Error: release: not found" >&2 ;;
                *) echo "ERROR: NOT_FOUND: $name" >&2 ;;
            esac
            exit 1
        fi
        [[ $does == look ]] || rm "$thing" ;;
esac
"""


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the things that there are, and the calls."""
    state, tools = tmp_path / "cloud", tmp_path / "tools"
    for folder in (state, tools):
        folder.mkdir()
    for name in ("gcloud", "kubectl", "helm"):
        tool = tools / name
        tool.write_text(CLOUD)
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("CLOUD", str(state))
    return state


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def gke(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """`python -m gke` as it is, in this process: a dozen of them start faster so."""
    output, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(output), redirect_stderr(errors), pytest.raises(SystemExit) as ended:
        run(cli, "gke", [*map(str, arguments)])
    return subprocess.CompletedProcess(
        arguments, int(ended.value.code or 0), output.getvalue(), errors.getvalue()
    )


def region(tmp_path: Path, name: str = "europe-west1", **changes: object) -> Path:
    """Values of one region, laid over those of the project."""
    file = tmp_path / f"{name}.yaml"
    values = yaml.safe_load((ROOT / "values" / "regions" / f"{name}.yaml").read_text())
    file.write_text(yaml.safe_dump({**values, **changes}))
    return file


def things(cloud: Path) -> set[str]:
    return {file.name for file in cloud.iterdir()} - {"calls"}


def calls(cloud: Path) -> list[str]:
    """Since the last time."""
    made = (cloud / "calls").read_text().splitlines()
    (cloud / "calls").unlink()
    return made


@pytest.mark.parametrize("verb", ["setup", "teardown"])
def test_the_commands_for_the_projects_fleet_are_known(verb: str) -> None:
    done = gke(verb, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (GOLDEN / f"{verb}.sh").read_text()


def test_the_commands_for_one_region_with_spot_nodes_autoscaling_and_a_bucket_are_known(
    tmp_path: Path,
) -> None:
    file = region(
        tmp_path,
        model={"source": {"type": "url", "url": "gs://models-of-mine/resnet50"}},
        triton={"replicas": 3, "serviceAccountName": "triton"},
        autoscaling={"kind": "keda", "minReplicas": 2, "maxReplicas": 9},
        routing={"configCluster": "europe-west1", "securityPolicy": "armor"},
    )
    done = gke("setup", "--dry-run", "--spot", "--region", file)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (GOLDEN / "setup-one-region.sh").read_text()


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("*.sh")), ids=lambda file: file.stem)
def test_what_is_printed_is_shell(file: Path) -> None:
    assert subprocess.run(["bash", "-n", file], check=False).returncode == 0


def test_what_is_printed_does_what_is_done_without_it(cloud: Path) -> None:
    """As a script, and by the command: the same things are there afterwards."""
    assert subprocess.run(["bash", GOLDEN / "setup.sh"], check=False, timeout=120).returncode == 0
    by_script = things(cloud)
    assert len(by_script) > 20
    assert subprocess.run(["bash", GOLDEN / "teardown.sh"], check=False, timeout=120).returncode == 0
    done = gke("setup")
    assert done.returncode == 0, done.stderr
    assert things(cloud) == by_script


def test_a_second_setup_makes_nothing_and_says_so(cloud: Path, tmp_path: Path) -> None:
    file = region(tmp_path, routing={"configCluster": "europe-west1"})
    first = gke("setup", "--region", file)
    assert first.returncode == 0, first.stderr
    assert "made      cluster inference-europe-west1" in first.stdout
    assert "inference.example.com: its zone needs the record" in first.stdout
    assert calls(cloud)
    there = things(cloud)
    second = gke("setup", "--region", file)
    assert second.returncode == 0, second.stderr
    assert "made" not in second.stdout
    assert "there     cluster inference-europe-west1" in second.stdout
    assert not [call for call in calls(cloud) if " create " in call or " register " in call]
    assert things(cloud) == there


def test_an_interrupted_setup_goes_on_where_it_was(
    cloud: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = region(tmp_path, routing={"configCluster": "europe-west1"})
    monkeypatch.setenv("CLOUD_FAILS", "node-pools create")
    monkeypatch.setenv("CLOUD_SAYS", "ERROR: Insufficient quota for GPUS_ALL_REGIONS")
    failed = gke("setup", "--region", file)
    assert failed.returncode == 1
    assert (
        "nodes gpu of inference-europe-west1: ERROR: Insufficient quota for GPUS_ALL_REGIONS" in failed.stderr
    )
    monkeypatch.delenv("CLOUD_FAILS")
    done = gke("setup", "--region", file)
    assert done.returncode == 0, done.stderr
    assert "there     cluster inference-europe-west1" in done.stdout
    assert "made      nodes gpu of inference-europe-west1" in done.stdout


def test_what_can_not_be_seen_is_not_taken_for_missing(
    cloud: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUD_FAILS", "clusters describe")
    monkeypatch.setenv("CLOUD_SAYS", "ERROR: PERMISSION_DENIED: Required permission (or it may not exist)")
    failed = gke("setup", "--region", region(tmp_path, routing={"configCluster": "europe-west1"}))
    assert failed.returncode == 1
    assert "PERMISSION_DENIED" in failed.stderr
    assert not [call for call in calls(cloud) if "clusters create" in call]


def test_teardown_removes_releases_first_and_all_that_setup_made(cloud: Path) -> None:
    assert gke("setup").returncode == 0
    (cloud / "helm inference-system us-central1").touch()
    calls(cloud)
    done = gke("teardown", "--yes")
    assert done.returncode == 0, done.stderr
    made = calls(cloud)
    uninstalled = next(i for i, call in enumerate(made) if call.startswith("helm uninstall"))
    assert uninstalled < min(i for i, call in enumerate(made) if " delete " in call or " disable " in call)
    # Nodes go with their cluster, what kubectl knew of it is of no harm, and an API stays enabled.
    assert {name.split()[1] for name in things(cloud)} <= {"container", "config", "services"}
    assert not [name for name in things(cloud) if "clusters" in name or "memberships" in name]
    again = gke("teardown", "--yes")
    assert again.returncode == 0, again.stderr
    assert "removed" not in again.stdout


def test_teardown_asks(cloud: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gke("setup").returncode == 0
    there = things(cloud)
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert gke("teardown").returncode != 0
    assert things(cloud) == there


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"region": ""}, "region: is empty"),
        ({"tools": {"image": {"repository": "example.com/tools"}}}, "is no image of an Artifact Registry"),
        (
            {"tools": {"image": {"repository": "us-east1-docker.pkg.dev/p/r/tools"}}},
            "no image of an Artifact Registry in europe-west1",
        ),
        (
            {"triton": {"nodeSelector": {"cloud.google.com/gke-accelerator": "nvidia-new"}}},
            "no machine type is known for nvidia-new: give --machine-type",
        ),
        ({}, "routing.configCluster: 'us-central1' is none of the regions"),
    ],
)
def test_values_that_say_too_little_are_named(
    tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    done = gke("setup", "--dry-run", "--region", region(tmp_path, **changes))
    assert (done.returncode, done.stdout) == (2, "")
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_without_gcloud_its_name_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = gke("setup")
    assert (done.returncode, done.stderr) == (2, "gke: gcloud is not on PATH\n")
