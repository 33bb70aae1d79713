"""Watches of the API: every change of the pods and EndpointSlices of a namespace, as it is sent."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

from model_tools.console import CheckFailed
from model_tools.kube import api_session

from .timeline import Pod, Timeline

# One is closed after so many seconds and opened anew where it was; the API server would do so itself.
SPELL = 1200


class Watch(threading.Thread):
    """Lists and then watches; calls back with the lock held. A thread that ends with the process.

    listed: gets all objects, again whenever the watch had to begin anew. event: gets what happened, the
    object and how many bytes that took.
    """

    def __init__(
        self,
        path: str,
        listed: Callable[[list[dict[str, Any]]], None],
        event: Callable[[str, dict[str, Any], int], None],
        changed: threading.Condition,
    ) -> None:
        super().__init__(daemon=True, name=f"watch of {path}")
        self._path, self._listed, self._event, self._changed = path, listed, event, changed
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while True:
                self._spell()
        except BaseException as error:  # whoever waits raises it
            with self._changed:
                self.error = error
                self._changed.notify_all()

    def _spell(self) -> None:
        session, host = api_session()
        answer = session.get(f"{host}{self._path}", timeout=120)
        answer.raise_for_status()
        found = answer.json()
        with self._changed:
            self._listed(found["items"])
            self._changed.notify_all()
        options = {"watch": "1", "resourceVersion": found["metadata"]["resourceVersion"]}
        options["timeoutSeconds"] = str(SPELL)
        with session.get(f"{host}{self._path}", params=options, stream=True, timeout=SPELL + 60) as stream:
            stream.raise_for_status()
            for line in stream.iter_lines(chunk_size=None):
                said = json.loads(line)
                if said["type"] == "ERROR":  # too old: list again
                    return
                with self._changed:
                    self._event(said["type"], said["object"], len(line))
                    self._changed.notify_all()


class Fleet:
    """The timeline of a namespace's pods, and how much is sent about its EndpointSlices.

    look: called every now and then while something is waited for.
    """

    def __init__(self, namespace: str, look: Callable[[], None]) -> None:
        self.timeline = Timeline()
        self.slices: dict[bool, list[int]] = {}
        self._look, self._changed = look, threading.Condition()
        pods = f"/api/v1/namespaces/{namespace}/pods"
        slices = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
        self._watches = [
            Watch(pods, self._list_pods, self._pod, self._changed),
            Watch(slices, lambda items: None, self._slice, self._changed),
        ]
        for each in self._watches:
            each.start()

    def begin(self) -> None:
        """A phase begins."""
        with self._changed:
            self.timeline.begin(time.monotonic())
            self.slices = {True: [0, 0], False: [0, 0]}

    def wait(self, condition: Callable[[], bool], what: str, timeout: float) -> None:
        """Until the condition holds, which is asked after every event and each second. Raises CheckFailed
        after `timeout` seconds, or when a watch fails."""
        deadline = time.monotonic() + timeout
        while True:
            with self._changed:
                for each in self._watches:
                    if each.error is not None:
                        raise CheckFailed(f"{each.name}: {each.error}")
                if condition():
                    return
                self._changed.wait(1)
            self._look()
            if time.monotonic() > deadline:
                line = self.timeline
                raise CheckFailed(
                    f"{what}: not within {timeout:.0f} s; {len(line)} pods, {line.scheduled} of them"
                    f" scheduled, {line.serving} ready"
                )

    def _list_pods(self, items: list[dict[str, Any]]) -> None:
        now, pods = time.monotonic(), [Pod.of(item) for item in items]
        for name in self.timeline.names() - {pod.name for pod in pods}:
            self.timeline.observe(now, name, None)
        for pod in pods:
            self.timeline.observe(now, pod.name, pod)

    def _pod(self, kind: str, item: dict[str, Any], size: int) -> None:
        pod = Pod.of(item)
        self.timeline.observe(time.monotonic(), pod.name, None if kind == "DELETED" else pod)

    def _slice(self, kind: str, item: dict[str, Any], size: int) -> None:
        headless = "service.kubernetes.io/headless" in item["metadata"].get("labels", {})
        count = self.slices.setdefault(headless, [0, 0])
        count[0] += 1
        count[1] += size
