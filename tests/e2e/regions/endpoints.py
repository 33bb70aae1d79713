"""Tells the load balancer a region's ready pods, from the API server's EndpointSlices."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from .edge import Pods

TIDY = 10  # seconds between two looks at what has drained


class Controller:
    """Follows the EndpointSlices of one release for as long as its cluster answers, and again once it does.

    While it does not, the pods stay what they were: whether they answer is for health checks to find out.
    """

    def __init__(self, pods: Pods, namespace: str) -> None:
        self._pods, self._namespace = pods, namespace
        self._kubeconfig: Path | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.ready: set[str] = set()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def look_at(self, kubeconfig: Path) -> None:
        """Which cluster it is: one that was made anew has other keys."""
        self._kubeconfig = kubeconfig

    def _run(self) -> None:
        import urllib3
        from kubernetes.client import ApiException

        while not self._stop.is_set():
            try:
                self._follow()
            except (ApiException, urllib3.exceptions.HTTPError, OSError):
                self._stop.wait(0.5)

    def _follow(self) -> None:
        from kubernetes import client, config, watch
        from kubernetes.config import ConfigException

        if self._kubeconfig is None or not self._kubeconfig.is_file():
            raise FileNotFoundError
        try:
            api = client.DiscoveryV1Api(
                config.new_client_from_config(str(self._kubeconfig), persist_config=False)
            )
        except ConfigException as error:  # half-written
            raise FileNotFoundError from error
        name = self._pods.backends[0].name
        select: dict[str, Any] = {
            "namespace": self._namespace, "label_selector": f"kubernetes.io/service-name={name}",
        }  # fmt: skip
        found = api.list_namespaced_endpoint_slice(**select, _request_timeout=(2, 5))
        slices = {each.metadata.name: each for each in found.items}
        self._tell(slices)
        since = found.metadata.resource_version
        while not self._stop.is_set():
            stream = watch.Watch().stream(
                api.list_namespaced_endpoint_slice, **select, resource_version=since,
                timeout_seconds=TIDY, _request_timeout=(2, 2 * TIDY),
            )  # fmt: skip
            for event in stream:
                each = event["object"]
                since = each.metadata.resource_version
                slices[each.metadata.name] = each
                if event["type"] == "DELETED":
                    del slices[each.metadata.name]
                self._tell(slices)
            self._pods.tidy()

    def _tell(self, slices: dict[str, Any]) -> None:
        self.ready = {
            address
            for each in slices.values()
            for endpoint in each.endpoints or []
            for address in endpoint.addresses
            if endpoint.conditions.ready and not endpoint.conditions.terminating
        }
        self._pods.set(self.ready)
