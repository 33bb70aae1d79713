"""Where Triton sends its traces: OTLP over HTTP, as JSON, on the loopback."""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from model_tools.latency.metrics import Metrics
from model_tools.latency.traces import Malformed, Traces

LIMIT = 16 << 20  # bytes of a document; Triton's largest, 512 spans, are 0.3 MB
PATIENCE = 5.0  # seconds for a sender's next bytes


class Receiver(HTTPServer):
    """Takes one document after the other: Triton sends no second one before the first is answered.

    Raises OSError when the address can't be used.
    """

    request_queue_size = 16

    def __init__(self, host: str, port: int, traces: Traces, metrics: Metrics) -> None:
        self.traces, self.metrics = traces, metrics
        self.refused = False  # the last document was; the log has one line for the first of a row
        super().__init__((host, port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A sender that hangs up or falls silent is no more than that; anything else is a line of the log."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            print(f"not taken: {type(error).__name__}: {error}", file=sys.stderr, flush=True)


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(PATIENCE)

    def do_POST(self) -> None:
        status, reason = self._take()
        if reason:
            self.server.metrics.refuse()
            if not self.server.refused:
                print(f"refused: {reason}", file=sys.stderr, flush=True)
        self.server.refused = bool(reason)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def _take(self) -> tuple[int, str]:
        """Takes the request's document; the status to answer with, and why it is refused."""
        if self.path != "/v1/traces":
            return 404, f"{self.path[:80]!r} is not /v1/traces"
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal()):
            return 411, "a document without its length"
        if int(length) > LIMIT:
            return 413, f"a document of {int(length)} bytes"
        if self.headers.get_content_type() != "application/json":
            # Triton 24.10 sends JSON; what OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/json asks newer ones for.
            return 415, f"{self.headers.get_content_type()[:80]} instead of application/json"
        body = self.rfile.read(int(length))
        try:
            self.server.metrics.take(self.server.traces.take(json.loads(body)))
        except (Malformed, ValueError, RecursionError) as error:
            return 400, str(error)[:200] or type(error).__name__
        return 200, ""

    def log_message(self, *_: Any) -> None:
        """Nothing for each request."""
