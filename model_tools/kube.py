"""The cluster that the kubeconfig names: its services, reached through the API server, and Helm's releases.

The API server's service proxy needs no port-forward and no address of the cluster's own network, so the same
code reads Prometheus and drives Locust on an embedded cluster, on kind and on GKE.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model_tools.console import BadInput

if TYPE_CHECKING:
    import requests

CONNECT_TIMEOUT = 10.0  # seconds for the API server to answer the first call
CHART = "inference-system"
NAME_LENGTH = 45  # as the chart's fullname truncates, so that suffixes fit


def service_session(
    namespace: str, service: str, port: int | str, context: str | None = None
) -> tuple[requests.Session, str]:
    """An HTTP session and the base URL (no slash at its end) of a service's port.

    context: of the kubeconfig, in place of its current one.

    Raises BadInput, with one line that names it, where the kubeconfig, the cluster or the service is missing.
    """
    session, host = api_session(context)
    path = f"{host}/api/v1/namespaces/{namespace}/services"
    answer = _first_call(session, f"{path}/{service}", host)
    if answer.status_code == 404:
        raise BadInput(f"no service {service} in namespace {namespace}")
    if answer.status_code in (401, 403):
        raise BadInput(
            f"the cluster does not let this user read service {namespace}/{service}: {_message(answer)}"
        )
    if not answer.ok:
        raise BadInput(f"service {namespace}/{service}: {_message(answer)}")
    return session, f"{path}/http:{service}:{port}/proxy"


def api_session(context: str | None = None) -> tuple[requests.Session, str]:
    """A session with the kubeconfig's credentials, and the API server's URL. Raises BadInput without one.

    context: of the kubeconfig, in place of its current one.

    Inside a pod without a kubeconfig the service account's credentials are used. Tokens are fetched again
    when they expire (exec plugins, cloud providers).
    """
    import requests
    from urllib3.util import Retry

    configuration = _configuration(context)
    host = configuration.host.rstrip("/")

    class Adapter(requests.adapters.HTTPAdapter):
        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            if configuration.tls_server_name:
                kwargs["server_hostname"] = kwargs["assert_hostname"] = configuration.tls_server_name
            super().init_poolmanager(*args, **kwargs)

    def authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
        for setting in configuration.auth_settings().values():
            if setting.get("value"):
                request.headers[setting["key"]] = setting["value"]
        return request

    session = requests.Session()
    # The environment's CA bundle and proxies are for other hosts than the one the kubeconfig describes.
    session.trust_env = False
    session.auth = authorize
    session.verify = (configuration.ssl_ca_cert or True) if configuration.verify_ssl else False
    if configuration.cert_file:
        session.cert = (configuration.cert_file, configuration.key_file)
    if configuration.proxy:
        session.proxies = {"http": configuration.proxy, "https": configuration.proxy}
    # Reading may be repeated; starting or stopping a load may not.
    retry = Retry(
        total=2, backoff_factor=0.2, allowed_methods=["GET"], status_forcelist=[], raise_on_status=False
    )
    session.mount(host, Adapter(max_retries=retry))
    return session, host


@dataclass(frozen=True)
class Release:
    """An installed release of the chart, with the values it was installed with, defaults included.

    context: of the kubeconfig, where it is not the current one.
    """

    name: str
    namespace: str
    values: dict[str, Any]
    context: str | None = None

    @property
    def fullname(self) -> str:
        """What the names of the release's objects begin with."""
        return fullname(self.name)

    @classmethod
    def load(cls, name: str, namespace: str, context: str | None = None) -> Release:
        """Reads an installed release. Raises BadInput where kubeconfig, cluster or release are missing."""
        _configuration(context)  # helm takes a missing kubeconfig for a cluster on localhost
        return cls(name, namespace, release_values(name, namespace, context), context)


def fullname(release: str) -> str:
    """What the names of a release's objects begin with."""
    whole = release if CHART in release else f"{release}-{CHART}"
    return whole[:NAME_LENGTH].removesuffix("-")


def release_values(release: str, namespace: str, context: str | None = None) -> dict[str, Any]:
    """Every value of an installed release (`helm get values --all`). Raises BadInput when there is none."""
    import json
    import shutil
    import subprocess

    helm = shutil.which("helm")
    if helm is None:
        raise BadInput("helm is not on PATH")
    command = [helm, "get", "values", release, "--namespace", namespace, "--all", "--output", "json"]
    command += ["--kube-context", context] if context else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["helm get values failed"])[-1].removeprefix("Error: ")
        raise BadInput(f"release {release} in namespace {namespace}: {reason}")
    values: dict[str, Any] = json.loads(done.stdout) or {}
    return values


def _configuration(context: str | None = None) -> Any:
    import os
    from pathlib import Path

    import yaml
    from kubernetes import config
    from kubernetes.client import Configuration

    configuration = Configuration()
    if os.environ.get("KUBECONFIG") or (Path.home() / ".kube" / "config").exists():
        try:
            # config_file is read from the environment now: the client's own default was at its import.
            config.load_kube_config(
                config_file=os.environ.get("KUBECONFIG") or None,
                context=context,
                client_configuration=configuration,
                persist_config=False,
            )
        except (config.ConfigException, yaml.YAMLError, OSError, TypeError, AttributeError) as error:
            # The last two: YAML that holds no mapping where the client expects one.
            where = os.environ.get("KUBECONFIG") or "~/.kube/config"
            raise BadInput(f"kubeconfig {where}: {' '.join(str(error).split())}") from None
    elif os.environ.get("KUBERNETES_SERVICE_HOST"):
        config.load_incluster_config(client_configuration=configuration)
    else:
        raise BadInput("no kubeconfig: set KUBECONFIG, or run under `cluster exec --`")
    return configuration


def _first_call(session: requests.Session, url: str, host: str) -> requests.Response:
    import requests

    try:
        return session.get(url, timeout=CONNECT_TIMEOUT)
    except requests.exceptions.SSLError as error:
        raise BadInput(f"cluster at {host}: its certificate is not the kubeconfig's: {error}") from None
    except requests.exceptions.RequestException as error:
        raise BadInput(f"cluster at {host} does not answer: {_cause(error)}") from None


def _cause(error: BaseException) -> str:
    """The innermost reason of a requests exception, which wraps urllib3's, which wraps the socket's."""
    reason: Any = error
    while getattr(reason, "args", None) and isinstance(reason.args[0], BaseException):
        reason = reason.args[0]
    return str(getattr(reason, "reason", reason)).rsplit(": ", 1)[-1]


def _message(answer: requests.Response) -> str:
    try:
        return str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {answer.status_code}"
