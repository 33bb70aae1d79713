"""What a server must never be sent: requests of the KServe v2 protocol, bent at random, over HTTP and gRPC.

Every choice is made by the Random that is given, so a seed and a number name a case, and hypothesis, which
gives a Random of its own, finds the smallest one that breaks something.
"""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import tritonclient.grpc.service_pb2 as pb

from .stack import FLOATS, PICTURE, SIDE

SERVICE = "/inference.GRPCInferenceService/"
DTYPES = [
    "UINT8",
    "FP32",
    "BYTES",
    "BOOL",
    "FP16",
    "BF16",
    "INT64",
    "UINT64",
    "",
    "uint8",
    "TYPE_UINT8",
    "FP128",
    "\0",
]
SIZES = [
    0,
    1,
    -1,
    2,
    3,
    15,
    16,
    17,
    255,
    768,
    2**15,
    2**31 - 1,
    2**31,
    2**32,
    2**32 + 1,
    2**62,
    2**63 - 1,
    -(2**31),
]
HUGE = [
    2**63,
    2**64 - 1,
    2**64,
    -(2**63),
    -(2**63) - 1,
    10**40,
    1e308,
    -1e308,
    5e-324,
    1.5,
    True,
    None,
    "16",
    [],
    {},
]
NAMES = [
    "",
    "..",
    "../../etc/passwd",
    "pictures/versions/1",
    "x" * 5000,
    "%2e%2e",
    "\u0000",
    "\u2603" * 50,
    "words",
    "imgae",
]
MODELS = ["pictures", "floats", "words", "resnet51", *NAMES]
VERSIONS = ["", "1", "0", "-1", "2", "99999999999999999999", "1.0", "latest", "\u0661", " 1"]
PARAMETERS = [
    "priority",
    "timeout",
    "sequence_id",
    "sequence_start",
    "sequence_end",
    "binary_data_output",
    "classification",
    "triton_enable_empty_final_response",
    "shared_memory_region",
    "shared_memory_byte_size",
    "shared_memory_offset",
    "headers_x",
    "max_tokens",
    "x" * 300,
]


@dataclass(frozen=True)
class HttpCase:
    """Bytes of one connection. then: "answer" waits for an answer, "half" says that no more bytes come and
    waits, "close" and "reset" leave at once."""

    kind: str
    data: bytes = field(repr=False)
    then: str = "answer"


@dataclass(frozen=True)
class GrpcCase:
    """Messages of one call. leave: seconds after which the client cancels it, None waits for its end."""

    kind: str
    method: str
    messages: tuple[bytes, ...] = field(repr=False)
    leave: float | None = None
    deadline: float = 20.0
    metadata: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    compressed: bool = False

    @property
    def stream(self) -> bool:
        return self.method == "ModelStreamInfer"


def number(random: Random) -> Any:
    return random.choice(SIZES) if random.random() < 0.7 else random.choice(HUGE)


def shape(random: Random) -> list[Any]:
    dims: list[Any] = [1, SIDE, SIDE, 3]
    for _ in range(random.randrange(3)):
        what = random.randrange(4)
        if what == 0 and dims:
            dims[random.randrange(len(dims))] = number(random)
        elif what == 1 and dims:
            dims.pop(random.randrange(len(dims)))
        elif what == 2:
            dims.insert(random.randrange(len(dims) + 1), number(random))
        else:
            dims = [number(random) for _ in range(random.choice([0, 1, 4, 8, 300]))]
    return dims


def parameters(random: Random) -> dict[str, Any]:
    return {random.choice(PARAMETERS): number(random) for _ in range(random.randrange(4))}


def junk(random: Random, most: int) -> bytes:
    return random.randbytes(random.randrange(most + 1))


def json_input(random: Random) -> dict[str, Any]:
    """An input of a JSON request: a good one, most of it, or not."""
    words = random.random() < 0.1
    tensor: dict[str, Any] = {
        "name": "image",
        "shape": [1, SIDE, SIDE, 3],
        "datatype": "UINT8",
        "data": [1] * PICTURE,
    }
    if words:
        tensor = {"name": "words", "shape": [1, 2], "datatype": "BYTES", "data": ["a", "b"]}
    if random.random() < 0.5:
        tensor["shape"] = shape(random)
    if random.random() < 0.2:
        tensor["datatype"] = random.choice(DTYPES)
    if random.random() < 0.2:
        tensor["name"] = random.choice([*NAMES, "values", "image "])
    if random.random() < 0.3:
        tensor["data"] = random.choice(
            [
                [],
                None,
                "AAAA",
                {},
                [[]],
                [[1], [1, 2]],
                [None] * PICTURE,
                [number(random)] * PICTURE,
                [256] * PICTURE,
                [-1] * PICTURE,
                ["1"] * PICTURE,
                [1.5] * PICTURE,
                [1] * (PICTURE - 1),
                [1] * (PICTURE + 1),
                [[1] * SIDE] * SIDE * 3,
                [True] * PICTURE,
            ]
        )
    if random.random() < 0.3:
        tensor["parameters"] = parameters(random)
    if random.random() < 0.1:
        del tensor[random.choice(list(tensor))]
    return tensor


def document(random: Random) -> dict[str, Any]:
    """The JSON of an inference."""
    request: dict[str, Any] = {
        "inputs": [json_input(random) for _ in range(random.choice([1, 1, 1, 1, 0, 2]))]
    }
    if random.random() < 0.2:
        request["id"] = random.choice(["", "x" * 4000, 1, None, [], "\ud800", "\n"])
    if random.random() < 0.3:
        request["parameters"] = random.choice([parameters(random), [], None, 1])
    if random.random() < 0.3:
        output: Any = {"name": random.choice(["probabilities", *NAMES]), "parameters": parameters(random)}
        request["outputs"] = [output] * random.choice([1, 1, 2, 50])
    if random.random() < 0.1:
        request[random.choice(["inputs", "outputs", "parameters"])] = number(random)
    return request


def text(random: Random) -> bytes:
    """A document as JSON text, and what no JSON writer would write."""
    written = json.dumps(document(random)).encode()
    what = random.randrange(12)
    if what == 0:
        written = written.replace(
            b"[1,", random.choice([b"[NaN,", b"[Infinity,", b"[-Infinity,", b"[1e999,", b"[-0,"]), 1
        )
    elif what == 1:
        written = written[: random.randrange(len(written) + 1)]
    elif what == 2:
        place = random.randrange(len(written) + 1)
        written = written[:place] + junk(random, 20) + written[place:]
    elif what == 3:
        written = b"\xef\xbb\xbf" + written
    elif what == 4:
        written = written.replace(b'"inputs"', b'"inputs":[],"inputs"', 1)
    return written


def deep(random: Random) -> bytes:
    """Brackets, one in the other, up to some hundred thousand of them."""
    levels = random.choice([10, 1000, 8000, 40_000, 200_000])
    opened, closed = random.choice([(b"[", b"]"), (b'{"a":', b"}"), (b'[{"a":', b"}]")])
    bombs = opened * levels + b"1" + closed * random.choice([levels, 0])
    return random.choice(
        [
            bombs,
            b'{"inputs":[{"name":"image","shape":[1,16,16,3],"datatype":"UINT8","data":' + bombs + b"}]}",
            b'{"inputs":[],"parameters":{"a":' + bombs + b"}}",
            b'{"inputs":[{"name":"image","shape":' + bombs + b',"datatype":"UINT8","data":[1]}]}',
        ]
    )


def head(
    random: Random, headers: list[tuple[str, str]], method: str = "POST", path: str | None = None
) -> bytes:
    """Line and headers of a request; with no path given, most are inferences of a model that is there."""
    if path is None:
        model = "pictures" if random.random() < 0.8 else random.choice(MODELS)
        version = "" if random.random() < 0.8 else f"/versions/{random.choice(VERSIONS)}"
        path = f"/v2/models/{model}{version}/infer"
    lines = [f"{method} {path} HTTP/1.1", "Host: inference", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n"


def sized(body: bytes, *headers: tuple[str, str]) -> list[tuple[str, str]]:
    return [("Content-Length", str(len(body))), *headers]


def _json(random: Random) -> HttpCase:
    body = text(random)
    return HttpCase("json", head(random, sized(body)) + body)


def _nan(random: Random) -> HttpCase:
    values = [random.choice([float("nan"), float("inf"), -float("inf"), 0.0, 3e38]) for _ in range(FLOATS)]
    if random.random() < 0.5:
        tensor = {"name": "values", "shape": [1, FLOATS], "datatype": "FP32", "data": values}
        body = json.dumps({"inputs": [tensor]}).encode()
        return HttpCase("nan", head(random, sized(body), path="/v2/models/floats/infer") + body)
    tensor = {
        "name": "values",
        "shape": [1, FLOATS],
        "datatype": "FP32",
        "parameters": {"binary_data_size": 4 * FLOATS},
    }
    said = json.dumps({"inputs": [tensor]}).encode()
    body = said + struct.pack(f"<{FLOATS}f", *values)
    headers = sized(body, ("Inference-Header-Content-Length", str(len(said))))
    return HttpCase("nan", head(random, headers, path="/v2/models/floats/infer") + body)


def _binary(random: Random) -> HttpCase:
    """Sizes of the binary extension that lie, and strings whose own lengths do."""
    if random.random() < 0.3:
        data = b"".join(
            struct.pack("<I", random.choice([0, 1, 4, 100, 2**31, 2**32 - 1, 2**32 - 4]))
            + b"a" * random.choice([0, 1, 4])
            for _ in range(random.choice([1, 2, 3]))
        )
        tensor: dict[str, Any] = {"name": "words", "shape": [1, 2], "datatype": "BYTES"}
        path = "/v2/models/words/infer"
    else:
        data = b"\1" * random.choice(
            [PICTURE, PICTURE, PICTURE, 0, 1, PICTURE - 1, PICTURE + 1, 20 * PICTURE]
        )
        tensor = {"name": "image", "shape": shape(random), "datatype": "UINT8"}
        path = "/v2/models/pictures/infer"
    tensor["parameters"] = {"binary_data_size": random.choice([len(data), len(data), number(random)])}
    said = json.dumps({"inputs": [tensor] * random.choice([1, 1, 1, 2])}).encode()
    lies = [
        str(number(random)),
        str(len(said) - 1),
        str(len(said) + 1),
        str(len(said) + len(data)),
        "",
        "x",
        "0x10",
        "1,2",
    ]
    size = str(len(said)) if random.random() < 0.6 else random.choice(lies)
    body = said + data
    headers = sized(body, ("Inference-Header-Content-Length", size))
    if random.random() < 0.05:
        headers.append(("Inference-Header-Content-Length", "7"))
    return HttpCase("binary", head(random, headers, path=path) + body)


def _deep(random: Random) -> HttpCase:
    body = deep(random)
    headers = sized(body)
    what = random.randrange(4)
    if what == 0:
        headers.append(("Inference-Header-Content-Length", random.choice([str(len(body)), "16", "9999999"])))
    path = None if what else "/v2/models/pictures/generate"
    return HttpCase("deep", head(random, headers, path=path) + body)


def _compressed(random: Random) -> HttpCase:
    """A small body that unpacks to a large one, or one that is cut."""
    plain = random.choice([text(random), b" " * 200_000, b'{"inputs":' + b" " * 2_000_000])
    coding, packed = random.choice(
        [
            ("gzip", gzip.compress(plain, 1)),
            ("deflate", zlib.compress(plain, 1)),
            ("gzip", plain),
            ("br", plain[:1000]),
            ("identity", plain[:3000]),
            ("GZIP, gzip", gzip.compress(plain, 1)),
            ("gzip", gzip.compress(plain, 1)[:-9]),
        ]
    )
    return HttpCase("compressed", head(random, sized(packed, ("Content-Encoding", coding))) + packed)


def _length(random: Random) -> HttpCase:
    """A Content-Length that lies."""
    body = json.dumps({"inputs": []}).encode()
    said = random.choice(
        [
            len(body) - 1,
            len(body) + 1,
            len(body) + 10_000,
            -1,
            2**31,
            2**63,
            2**64,
            10**30,
            "",
            "x",
            "+5",
            "0x5",
            "5, 6",
        ]
    )
    headers = [("Content-Length", str(said))]
    if random.random() < 0.2:
        headers.append(("Content-Length", str(len(body))))
    return HttpCase("content length", head(random, headers) + body, random.choice(["half", "close", "reset"]))


def _chunks(random: Random) -> HttpCase:
    sizes = [random.choice([1, 1, 10, 100]) for _ in range(random.choice([1, 10, 1000]))]
    chunks = b"".join(b"%x\r\n%s\r\n" % (size, b"a" * size) for size in sizes)
    ended = random.choice([b"0\r\n\r\n", b"", b"zz\r\n", b"ffffffffffffffff\r\n", b"-1\r\n"])
    headers = [("Transfer-Encoding", random.choice(["chunked", "Chunked", "gzip, chunked", "identity", "x"]))]
    if random.random() < 0.3:
        headers.append(("Content-Length", "5"))
    return HttpCase("chunks", head(random, headers) + chunks + ended, "half")


def _headers(random: Random) -> HttpCase:
    what = random.randrange(7)
    body = b'{"inputs":[]}'
    headers = sized(body)
    if what == 0:
        headers += [(f"X-{index}", "y") for index in range(random.choice([50, 99, 200, 2000]))]
    elif what == 1:
        headers.append(("X", "y" * random.choice([1000, 8000, 16_000, 70_000])))
    elif what == 2:
        headers.append((random.choice(["X Y", "", "X\0", "\u00e9", "X" * 9000]), "z"))
    elif what == 3:
        headers.append(
            ("Connection", random.choice(["upgrade", "close", "keep-alive, Content-Length", "Host"]))
        )
    elif what == 4:
        headers.append(("Expect", random.choice(["100-continue", "200-ok"])))
    elif what == 5:
        headers.append(("Upgrade", random.choice(["h2c", "websocket"])))
    else:
        headers.append(("X", "a\r\n b"))
    return HttpCase("headers", head(random, headers) + body, "half")


def _path(random: Random) -> HttpCase:
    method = random.choice(
        ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE", "PATCH", "CONNECT", "get", "X" * 100]
    )
    model, version = random.choice(MODELS), random.choice(VERSIONS)
    path = random.choice(
        [
            "/",
            "*",
            "//",
            "/v2",
            "/v2/",
            "/v3",
            "/v2/health/live",
            "/v2/health/xx",
            f"/v2/models/{model}",
            f"/v2/models/{model}/versions/{version}",
            f"/v2/models/{model}/versions/{version}/config",
            f"/v2/models/{model}/stats",
            f"/v2/models/{model}/ready",
            f"/v2/models/{model}/generate",
            f"/v2/models/{model}/generate_stream",
            f"/v2/models/{model}/trace/setting",
            "/v2/repository/index",
            f"/v2/repository/models/{model}/unload",
            f"/v2/repository/models/{model}/load",
            "/v2/systemsharedmemory/region/x/register",
            "/v2/cudasharedmemory/unregister",
            "/v2/logging",
            "/v2/trace/setting",
            "/metrics",
            "/v2/models/pictures/infer?a=" + "b" * 5000,
            "/v2/models/pictures/infer#x",
            "/v2/models/pict%75res/infer",
            "/v2/models/%00/infer",
            "/v2/models/../models/pictures",
            "http://x/v2",
            "/\u2603",
        ]
    )
    path = path.replace(" ", "%20").replace("\0", "%00").replace("\n", "")
    body = random.choice([b"", b"{}", b'{"name":"x"}', b"[]", junk(random, 50)])
    return HttpCase("path", head(random, sized(body), method, path) + body, "half")


def _cut(random: Random) -> HttpCase:
    """A good request, of which some comes, and whose client then leaves."""
    body = json.dumps(
        {
            "inputs": [
                {"name": "image", "shape": [1, SIDE, SIDE, 3], "datatype": "UINT8", "data": [1] * PICTURE}
            ]
        }
    ).encode()
    data = head(random, sized(body)) + body
    return HttpCase("cut", data[: random.randrange(len(data))], random.choice(["half", "close", "reset"]))


def _left(random: Random) -> HttpCase:
    """A good request whose client does not wait."""
    case = _json(random)
    return HttpCase("left", case.data * random.choice([1, 3]), random.choice(["close", "reset"]))


def _pipelined(random: Random) -> HttpCase:
    cases = [random.choice([_json, _path])(random).data for _ in range(random.randrange(2, 6))]
    return HttpCase("pipelined", b"".join(cases), "half")


def _garbage(random: Random) -> HttpCase:
    lead = random.choice(
        [
            b"",
            b"GET / HTTP/1.1\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET /\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ]
    )
    return HttpCase("garbage", lead + junk(random, 3000), "half")


HTTP: list[tuple[int, Callable[[Random], HttpCase]]] = [
    (30, _json),
    (15, _binary),
    (6, _deep),
    (6, _compressed),
    (6, _length),
    (5, _chunks),
    (6, _headers),
    (8, _path),
    (6, _cut),
    (4, _left),
    (4, _pipelined),
    (4, _garbage),
    (4, _nan),
]


def http_case(random: Random) -> HttpCase:
    weights, makers = zip(*HTTP, strict=True)
    return random.choices(makers, weights)[0](random)


def message(random: Random) -> Any:
    """A ModelInferRequest: a good one, most of it, or not."""
    request = pb.ModelInferRequest(model_name="pictures" if random.random() < 0.8 else random.choice(MODELS))
    if random.random() < 0.2:
        request.model_version = random.choice(VERSIONS)
    if random.random() < 0.1:
        request.id = random.choice(["x" * 4000, "\n"])
    for _ in range(random.choice([1, 1, 1, 1, 1, 0, 2, 40])):
        _add_input(random, request)
    if random.random() < 0.2:
        for _ in range(random.choice([1, 2, 50])):
            output = request.outputs.add(name=random.choice(["probabilities", "probabilities", *NAMES]))
            _set_parameters(random, output.parameters)
    if random.random() < 0.3:
        _set_parameters(random, request.parameters)
    return request


def _add_input(random: Random, request: Any) -> None:
    tensor = request.inputs.add(name="image", datatype="UINT8")
    sizes = [1, SIDE, SIDE, 3] if random.random() < 0.6 else shape(random)
    tensor.shape.extend(size for size in sizes if type(size) is int and -(2**63) <= size < 2**63)
    if random.random() < 0.2:
        tensor.datatype = random.choice(DTYPES)
    if random.random() < 0.2:
        tensor.name = random.choice(NAMES)
    if random.random() < 0.2:
        _set_parameters(random, tensor.parameters)
    what = random.randrange(10)
    if what < 7:  # one for each input, or not
        request.raw_input_contents.extend(
            [b"\1" * random.choice([PICTURE, PICTURE, 0, 1, 100_000])] * random.choice([1, 1, 1, 0, 2])
        )
    elif what == 7:
        tensor.contents.uint_contents.extend(
            [random.choice([1, 255, 256, 2**32 - 1])] * random.choice([PICTURE, 1, 5000])
        )
    elif what == 8:
        tensor.contents.fp32_contents.extend([random.choice([float("nan"), float("inf"), 0.0])] * FLOATS)
    else:
        tensor.contents.bytes_contents.extend([junk(random, 40)] * random.choice([0, 2, 1000]))


def _set_parameters(random: Random, where: Any) -> None:
    for _ in range(random.randrange(1, 3)):
        value = random.choice(
            [
                {"int64_param": random.choice([0, 1, -1, 2**31, 2**63 - 1, -(2**63)])},
                {"string_param": random.choice(["", "x", "nothing", "y" * 2000])},
                {"bool_param": True},
                {"double_param": float("nan")},
                {"uint64_param": 2**64 - 1},
            ]
        )
        where[random.choice(PARAMETERS)].CopyFrom(pb.InferParameter(**value))


def _infer(random: Random) -> GrpcCase:
    return GrpcCase("message", "ModelInfer", (message(random).SerializeToString(),))


def _nan_message(random: Random) -> GrpcCase:
    request = pb.ModelInferRequest(model_name="floats")
    request.inputs.add(name="values", datatype="FP32", shape=[1, FLOATS])
    values = [random.choice([float("nan"), float("inf"), -float("inf"), 0.0]) for _ in range(FLOATS)]
    request.raw_input_contents.append(struct.pack(f"<{FLOATS}f", *values))
    return GrpcCase("nan", "ModelInfer", (request.SerializeToString(),))


def _words(random: Random) -> GrpcCase:
    request = pb.ModelInferRequest(model_name="words")
    request.inputs.add(
        name="words", datatype="BYTES", shape=random.choice([[1, 2], [2, 2], [0, 2], [1, 1], [4, 2], [5, 2]])
    )
    lengths = [
        random.choice([0, 1, 4, 100, 2**31, 2**32 - 1, 2**32 - 8])
        for _ in range(random.choice([0, 1, 2, 3, 8]))
    ]
    request.raw_input_contents.append(
        b"".join(
            struct.pack("<I", length) + b"a" * random.choice([0, 1, min(length, 100)]) for length in lengths
        )
    )
    return GrpcCase("strings", "ModelInfer", (request.SerializeToString(),))


def _bent(random: Random) -> GrpcCase:
    """Bytes that are nearly a message."""
    written = bytearray(message(random).SerializeToString())
    for _ in range(random.randrange(1, 8)):
        what = random.randrange(3)
        if what == 0 and written:
            written[random.randrange(len(written))] = random.randrange(256)
        elif what == 1:
            del written[random.randrange(len(written) + 1) :]
        else:
            place = random.randrange(len(written) + 1)
            written[place:place] = junk(random, 12)
    return GrpcCase("bytes", "ModelInfer", (bytes(written),))


def _cancelled(random: Random) -> GrpcCase:
    case = _infer(random)
    if random.random() < 0.5:
        return GrpcCase(
            "cancelled", "ModelInfer", case.messages, leave=random.choice([0.0, 0.0, 0.001, 0.003])
        )
    return GrpcCase("deadline", "ModelInfer", case.messages, deadline=random.choice([0.0, 0.001, 0.003]))


def _stream(random: Random) -> GrpcCase:
    """Several inferences on a stream; some are left half open."""
    messages = tuple(message(random).SerializeToString() for _ in range(random.choice([0, 1, 3, 10])))
    return GrpcCase("stream", "ModelStreamInfer", messages, leave=random.choice([None, 0.0, 0.002, 0.02]))


def _packed(random: Random) -> GrpcCase:
    request = message(random)
    request.raw_input_contents.append(b"\0" * random.choice([1000, 100_000, 2_000_000]))
    return GrpcCase("compressed", "ModelInfer", (request.SerializeToString(),), compressed=True)


def _call(random: Random) -> GrpcCase:
    """Every other call, with what it should not be given."""
    makers: dict[str, Any] = {
        "ServerLive": pb.ServerLiveRequest(),
        "ServerReady": pb.ServerReadyRequest(),
        "ServerMetadata": pb.ServerMetadataRequest(),
        "ModelReady": pb.ModelReadyRequest(name=random.choice(MODELS), version=random.choice(VERSIONS)),
        "ModelMetadata": pb.ModelMetadataRequest(name=random.choice(MODELS), version=random.choice(VERSIONS)),
        "ModelConfig": pb.ModelConfigRequest(name=random.choice(MODELS), version=random.choice(VERSIONS)),
        "ModelStatistics": pb.ModelStatisticsRequest(name=random.choice(MODELS)),
        "RepositoryIndex": pb.RepositoryIndexRequest(),
        "LogSettings": pb.LogSettingsRequest(),
        "RepositoryModelUnload": pb.RepositoryModelUnloadRequest(model_name="pictures"),
        "RepositoryModelLoad": pb.RepositoryModelLoadRequest(model_name="pictures"),
        "SystemSharedMemoryRegister": pb.SystemSharedMemoryRegisterRequest(
            name="x", key="/x", byte_size=2**63
        ),
        "SystemSharedMemoryUnregister": pb.SystemSharedMemoryUnregisterRequest(),
        "CudaSharedMemoryRegister": pb.CudaSharedMemoryRegisterRequest(
            name="x", raw_handle=b"x" * 64, byte_size=2**62
        ),
        "TraceSetting": pb.TraceSettingRequest(),
        "NoSuchCall": pb.ServerLiveRequest(),
    }
    method = random.choice(list(makers))
    written = makers[method].SerializeToString() if random.random() < 0.8 else junk(random, 100)
    metadata = random.choice(
        [
            (),
            (("triton-grpc-protocol-operator", "guess"),),
            (("x", "y" * 9000),),
            tuple((f"x{index}", "y") for index in range(100)),
        ]
    )
    return GrpcCase("call", method, (written,), metadata=metadata)


GRPC: list[tuple[int, Callable[[Random], GrpcCase]]] = [
    (40, _infer),
    (15, _bent),
    (10, _cancelled),
    (8, _stream),
    (3, _packed),
    (10, _call),
    (8, _words),
    (6, _nan_message),
]


def grpc_case(random: Random) -> GrpcCase:
    weights, makers = zip(*GRPC, strict=True)
    return random.choices(makers, weights)[0](random)
