"""One user's connection to Triton: prebuilt requests over gRPC or HTTP, checked answers, named failures.

Both clients send requests that were put together once: a gRPC message is serialised to bytes, an HTTP body
is Triton's binary form. Sending one is then a copy to the socket, so that the load test measures the server
and not Python's protobuf.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from loadtest.payloads import NUMPY_TYPES, ModelInterface, WrongAnswer, check_answer, pictures

if TYPE_CHECKING:
    import numpy as np

MAX_MESSAGE = 2**31 - 1
JSON_SIZE = "Inference-Header-Content-Length"  # how much of a body in Triton's binary form is JSON
CA_FILE = "LOADTEST_CA_FILE"  # certificates to trust in place of the system's; a missing file is none


class RequestFailed(Exception):
    """One request's failure. outcome: gRPC status, HTTP code, `timeout`, `connection` or `wrong_answer`."""

    def __init__(self, outcome: str, detail: str) -> None:
        self.outcome = outcome
        self.detail = " ".join(detail.split())[:200]
        super().__init__(f"{outcome}: {self.detail}")

    def __repr__(self) -> str:
        return str(self)  # Locust groups failures by repr


class Client(Protocol):
    """What a user needs of a protocol."""

    def metadata(self) -> dict[str, Any]:
        """The model's metadata in the KServe v2 JSON form. Raises RequestFailed."""

    def infer(self, request: Any) -> np.ndarray:
        """Sends one prebuilt request and returns the checked answer, flat. Raises RequestFailed."""

    def close(self) -> None: ...


class GrpcClient:
    """A channel of its own, kept for the user's life.

    url: host:port, a gRPC target (dns:///name:port spreads over every address of the name), or
    grpcs://host:port for TLS. timeout: seconds for each request.
    """

    protocol = "grpc"

    def __init__(self, url: str, model: str, timeout: float, interface: ModelInterface | None = None) -> None:
        import grpc

        self._model, self._timeout, self._interface = model, timeout, interface
        self._channel = grpc_channel(grpc, url)
        from tritonclient.grpc import service_pb2

        self._infer = self._channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=None,  # requests are bytes already
            response_deserializer=service_pb2.ModelInferResponse.FromString,
        )

    def metadata(self) -> dict[str, Any]:
        import grpc
        from google.protobuf.json_format import MessageToDict
        from tritonclient.grpc import service_pb2, service_pb2_grpc

        stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        try:
            answer = stub.ModelMetadata(
                service_pb2.ModelMetadataRequest(name=self._model), timeout=self._timeout
            )
        except grpc.RpcError as error:
            raise grpc_failure(error) from None
        return dict(MessageToDict(answer))

    @staticmethod
    def build(interface: ModelInterface) -> list[bytes]:
        """One serialised ModelInferRequest a picture."""
        from tritonclient.grpc import service_pb2

        requests = []
        for tensor in pictures(interface):
            request = service_pb2.ModelInferRequest(model_name=interface.name)
            request.inputs.add(
                name=interface.input_name, datatype=interface.input_type, shape=interface.input_shape
            )
            request.outputs.add(name=interface.output_name)
            request.raw_input_contents.append(tensor.tobytes())
            requests.append(request.SerializeToString())
        return requests

    def infer(self, request: bytes) -> np.ndarray:
        import grpc

        assert self._interface is not None
        try:
            answer = self._infer(request, timeout=self._timeout)
        except grpc.RpcError as error:
            raise grpc_failure(error) from None
        return grpc_answer(self._interface, answer)

    def close(self) -> None:
        self._channel.close()


class HttpClient:
    """One kept-alive connection. url: host:port or http(s)://host:port. timeout: seconds for each request."""

    protocol = "http"

    def __init__(self, url: str, model: str, timeout: float, interface: ModelInterface | None = None) -> None:
        from geventhttpclient import HTTPClient

        self._interface = interface
        self._path = http_path(model)
        self._client = HTTPClient.from_url(
            http_base(url),
            concurrency=1,
            connection_timeout=min(timeout, 10.0),
            network_timeout=timeout,
            ssl_context_factory=_tls_context,
        )

    def metadata(self) -> dict[str, Any]:
        import json

        answer = self._call("GET", self._path)
        return dict(json.loads(answer.read()))

    @staticmethod
    def build(interface: ModelInterface) -> list[tuple[bytes, dict[str, str]]]:
        """One (body, headers) a picture, in Triton's binary form."""
        from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

        requests = []
        for tensor in pictures(interface):
            given = InferInput(interface.input_name, list(interface.input_shape), interface.input_type)
            given.set_data_from_numpy(tensor, binary_data=True)
            body, json_size = InferenceServerClient.generate_request_body(
                [given], outputs=[InferRequestedOutput(interface.output_name, binary_data=True)]
            )
            headers = {
                "Content-Type": "application/octet-stream",
                JSON_SIZE: str(json_size),
            }
            requests.append((body, headers))
        return requests

    def infer(self, request: tuple[bytes, dict[str, str]]) -> np.ndarray:
        assert self._interface is not None
        body, headers = request
        answer = self._call("POST", f"{self._path}/infer", body, headers)
        return http_answer(self._interface, bytes(answer.read()), answer.get(JSON_SIZE))

    def _call(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Any:
        from geventhttpclient.response import HTTPParseError

        try:
            answer = self._client.request(method, path, body=body, headers=headers or {})
            if answer.status_code != 200:
                raise RequestFailed(str(answer.status_code), http_detail(bytes(answer.read())))
        except TimeoutError as error:
            raise RequestFailed("timeout", str(error) or "no answer in time") from None
        except (OSError, HTTPParseError) as error:
            raise RequestFailed("connection", str(error) or type(error).__name__) from None
        return answer

    def close(self) -> None:
        self._client.close()


def grpc_channel(grpc: Any, url: str) -> Any:
    """A channel of its own to a url as GrpcClient takes it; grpc is that module, or grpc.aio."""
    options = [
        # No retry policy: what fails counts. grpc.enable_retries=0 would go further and keep gRPC from
        # sending again what a server, ending a connection, said it never looked at, which is no failure.
        ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
        # Channels with one target share connections unless told not to: then all users would queue
        # on one TCP connection, and one pod's worth of flow control.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_send_message_length", MAX_MESSAGE),
        ("grpc.max_receive_message_length", MAX_MESSAGE),
        # What that sending again is limited to, 256 KB by default: larger requests would be lost instead.
        ("grpc.per_rpc_retry_buffer_size", MAX_MESSAGE),
        # An inference service is never behind the proxy that the environment names for the internet.
        ("grpc.enable_http_proxy", 0),
        # The default of 30 s is longer than a pod drains: its successors would be heard of too late.
        ("grpc.dns_min_time_between_resolutions_ms", 1000),
        ("grpc.initial_reconnect_backoff_ms", 500),
        ("grpc.max_reconnect_backoff_ms", 5000),
    ]
    if url.startswith("grpcs://"):
        from grpc import ssl_channel_credentials

        target = url.removeprefix("grpcs://")
        return grpc.secure_channel(target, ssl_channel_credentials(trusted()), options)
    return grpc.insecure_channel(url.removeprefix("grpc://"), options)


def grpc_answer(interface: ModelInterface, answer: Any) -> np.ndarray:
    """The values of a ModelInferResponse, flat, once they are checked. Raises RequestFailed."""
    import numpy as np

    try:
        if not answer.outputs or not answer.raw_output_contents:
            raise WrongAnswer("the answer holds no output")
        values = np.frombuffer(answer.raw_output_contents[0], NUMPY_TYPES[answer.outputs[0].datatype])
        check_answer(interface, tuple(answer.outputs[0].shape), values)
    except (WrongAnswer, KeyError, ValueError) as error:
        raise RequestFailed("wrong_answer", str(error)) from None
    return values


def http_answer(interface: ModelInterface, body: bytes, json_size: str | None) -> np.ndarray:
    """The values of an HTTP answer in Triton's binary form, flat, once they are checked.

    json_size: what the header JSON_SIZE says. Raises RequestFailed.
    """
    from tritonclient.http import InferenceServerClient
    from tritonclient.utils import InferenceServerException

    try:
        result = InferenceServerClient.parse_response_body(
            body, header_length=int(json_size) if json_size else None
        )
        values = result.as_numpy(interface.output_name)
        if values is None:
            raise WrongAnswer("the answer holds no output")
        check_answer(interface, values.shape, values)
    except (WrongAnswer, InferenceServerException, KeyError, ValueError) as error:
        raise RequestFailed("wrong_answer", str(error)) from None
    return values.ravel()


def trusted() -> bytes | None:
    """The certificates of CA_FILE; None where the system's are meant."""
    import os
    from pathlib import Path

    file = Path(os.environ.get(CA_FILE, ""))
    return file.read_bytes() if file.is_file() else None


def _tls_context(**_: Any) -> Any:
    from gevent import ssl

    certificates = trusted()
    return ssl.create_default_context(cadata=certificates.decode() if certificates else None)


def http_path(model: str) -> str:
    from urllib.parse import quote

    return f"/v2/models/{quote(model, safe='')}"


def http_base(url: str) -> str:
    return url if "://" in url else f"http://{url}"


def grpc_failure(error: Any) -> RequestFailed:
    return RequestFailed(error.code().name, error.details() or "")


def http_detail(body: bytes) -> str:
    import json

    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace")
