"""The routing example: Alertmanager takes it, and each alert of the chart reaches whom it should."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from .promtool import AUTOSCALED, rules
from .render import ROOT, load


@pytest.fixture
def config(tmp_path: Path) -> Path:
    values = load(ROOT / "values" / "alertmanager.yaml")
    file = tmp_path / "alertmanager.yaml"
    file.write_text(yaml.safe_dump(values["kube-prometheus-stack"]["alertmanager"]["config"]))
    return file


def amtool(*arguments: str | Path) -> str:
    program = shutil.which("amtool")
    if not program:
        pytest.skip("amtool is not installed (Debian: package prometheus-alertmanager)")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def test_alertmanager_takes_the_example(config: Path) -> None:
    assert "3 receivers" in amtool("check-config", config)


def test_every_alert_pages_or_makes_a_ticket(config: Path) -> None:
    alerts = {(rule["alert"], rule["labels"]["severity"]) for rule in rules(AUTOSCALED) if "alert" in rule}
    receivers = {"critical": "page", "warning": "ticket"}
    for severity, receiver in receivers.items():
        for alert in sorted(name for name, each in alerts if each == severity):
            labels = (f"alertname={alert}", f"severity={severity}", "namespace=inference")
            assert amtool("config", "routes", "test", f"--config.file={config}", *labels) == receiver, alert


def test_alerts_of_others_go_nowhere(config: Path) -> None:
    labels = ("alertname=KubePodCrashLooping", "severity=critical")
    assert amtool("config", "routes", "test", f"--config.file={config}", *labels) == "null"
