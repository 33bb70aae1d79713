"""What the HTTP proxy costs: Triton through it against Triton itself, same pod, same pictures, same run.

    kubectl debug POD --image TOOLS_IMAGE --profile restricted --stdin --container bench -- \\
        /opt/venv/bin/python - --proxied localhost:8000 --direct localhost:8080 < benchmarks/proxy_overhead.py

Triton's own port is open on the pod's loopback only, so the client is a container of the pod. Phases
alternate, and each pair gives a ratio of the requests answered in a second; the report is their median and
range.
"""

from __future__ import annotations

import statistics
import threading
import time

import click

from loadtest.clients import HttpClient
from loadtest.payloads import ModelInterface


@click.command()
@click.option("--proxied", required=True, metavar="HOST:PORT")
@click.option("--direct", required=True, metavar="HOST:PORT")
@click.option("--model", default="resnet50", show_default=True)
@click.option("--rounds", default=6, show_default=True)
@click.option("--seconds", default=8.0, show_default=True, help="Length of a phase.")
@click.option(
    "--connections", default=16, show_default=True, help="Kept alive, one request at a time in each."
)
def command(proxied: str, direct: str, model: str, rounds: int, seconds: float, connections: int) -> None:
    """Compare the throughput of two HTTP addresses of one Triton."""
    addresses = {"direct": direct, "proxied": proxied}
    ratios = []
    for index in range(rounds):
        order = ["direct", "proxied"] if index % 2 == 0 else ["proxied", "direct"]
        rates = {name: throughput(addresses[name], model, seconds, connections) for name in order}
        ratios.append(rates["proxied"] / rates["direct"])
        shown = ", ".join(f"{name} {rate:.1f}/s" for name, rate in sorted(rates.items()))
        print(f"round {index + 1}: {shown}, ratio {ratios[-1]:.3f}", flush=True)
    print(f"proxied/direct {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


def throughput(address: str, model: str, seconds: float, connections: int) -> float:
    """Requests a second; whatever was in flight at the end counts with the time that it took."""
    probe = HttpClient(address, model, 60)
    interface = ModelInterface.from_metadata(probe.metadata())
    requests = HttpClient.build(interface)
    counts = [0] * connections
    began = time.perf_counter()

    def user(index: int) -> None:
        client = HttpClient(address, model, 60, interface)
        while time.perf_counter() < began + seconds:
            client.infer(requests[counts[index] % len(requests)])
            counts[index] += 1
        client.close()

    threads = [threading.Thread(target=user, args=(index,)) for index in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - began)


if __name__ == "__main__":
    command()
