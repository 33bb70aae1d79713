"""Whether something that is secret can be read where it should not be."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator

from model_tools.kube import Release, service_session

from .helm import kubectl, listed
from .metrics import exposition

PUBLIC = ("ca.crt", "tls.crt")


def leaks(release: Release) -> set[tuple[str, str]]:
    """(secret, place) where a secret of the release stands in a log, an event or a metric."""
    kept = dict(secrets(release))
    said = dict(told(release))
    assert any(name.endswith("/operator-key") for name in kept)
    assert {where.partition(" ")[0] for where in said} == {"log", "events", "series", "metrics"}
    assert all(len(text) > 500 for where, text in said.items() if where.startswith(("events", "series")))
    return {(name, where) for where, text in said.items() for name, value in kept.items() if value in text}


def secrets(release: Release) -> Iterator[tuple[str, str]]:
    """What nobody is to read, by where it is kept: in Secrets of the namespace, in pods of the release."""
    for secret in listed(release.namespace, "secrets"):
        if secret["type"].startswith("helm.sh/"):
            continue  # the releases' own objects
        for key, value in secret.get("data", {}).items():
            if key not in PUBLIC:
                # Of several lines the longest: the first of a private key is everybody's.
                lines = base64.b64decode(value).decode(errors="replace").splitlines()
                yield f"{secret['metadata']['name']}/{key}", max(lines, key=len)
    for pod in tritons(release):
        key = kubectl(
            "exec", pod, "--container=triton", "--", "cat", "/tmp/operator-key", namespace=release.namespace
        )
        assert key.returncode == 0, key.stderr
        yield f"{pod}/operator-key", key.stdout.strip()


def tritons(release: Release) -> list[str]:
    """Its pods that are ready."""
    selector = f"app.kubernetes.io/instance={release.name},app.kubernetes.io/component=triton"
    return [
        pod["metadata"]["name"]
        for pod in listed(release.namespace, "pods", f"--selector={selector}")
        if {"Ready": "True"}.items()
        <= {each["type"]: each["status"] for each in pod["status"].get("conditions", [])}.items()
    ]


def told(release: Release) -> Iterator[tuple[str, str]]:
    """What whoever may see logs, events and metrics of the namespace reads."""
    for pod in listed(release.namespace, "pods"):
        name = pod["metadata"]["name"]
        log = kubectl("logs", name, "--all-containers", namespace=release.namespace)
        yield f"log of {name}", log.stdout
    yield "events", json.dumps(listed(release.namespace, "events"))
    place = release.values["monitoring"]["prometheus"]
    session, base = service_session(place["namespace"], place["service"], place["port"])
    asked = {"match[]": f'{{namespace="{release.namespace}"}}', "start": f"{time.time() - 3600:.0f}"}
    yield "series", json.dumps(session.get(f"{base}/api/v1/series", params=asked, timeout=60).json()["data"])
    for pod in tritons(release):
        yield f"metrics of {pod}", exposition(release.namespace, pod)
