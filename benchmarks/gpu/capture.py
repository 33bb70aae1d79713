"""What Triton and the driver say of a GPU while it works, scrape by scrape, for tests that have no GPU.

    capture.py --root TRITON --libraries FOLDER --plan FILE --output FILE [--instances 4] [--every 5]

TRITON as for triton.py. The load comes and goes: nothing, single images over gRPC, nothing, batches of 64 in
system shared memory. Each line of the output is one scrape, {"seconds": since the first, "triton": its
metrics, "dcgm": of the same moment}. The latter is in the words of dcgm-exporter, which can't run everywhere;
its numbers are nvidia-smi's, but for the last XID error, which that does not tell: 0, for the GPU goes on.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.gpu.triton import load, options, serving, shown

# dcgm-exporter's series, and the field of `nvidia-smi --query-gpu` that has its number.
DCGM = {
    "DCGM_FI_DEV_GPU_TEMP": "temperature.gpu",
    "DCGM_FI_DEV_SM_CLOCK": "clocks.sm",
    "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS": "clocks_event_reasons.active",
    "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL": "ecc.errors.uncorrected.volatile.total",
    "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS": "remapped_rows.uncorrectable",
    "DCGM_FI_DEV_ROW_REMAP_FAILURE": "remapped_rows.failure",
}
NAME = "name"
UUID = re.compile(r"GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")  # which one it was is nobody's business
WORDS = {"No": 0.0, "Yes": 1.0}


def number(text: str) -> float | None:
    """As nvidia-smi prints it: decimal, hexadecimal or a word; None for what the GPU does not have."""
    if text in WORDS:
        return WORDS[text]
    try:
        return float(int(text, 16)) if text.startswith("0x") else float(text)
    except ValueError:
        return None


def dcgm() -> str:
    """Of the first GPU, in Prometheus' text format."""
    fields = [NAME, *DCGM.values()]
    said = subprocess.run(
        ["nvidia-smi", "--id=0", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"],
        capture_output=True, text=True, check=True, timeout=30,
    ).stdout.strip().split(", ")  # fmt: skip
    labels = f'{{gpu="0",UUID="GPU-0",device="nvidia0",modelName="{said[0]}"}}'
    lines = [
        f"{series}{labels} {value:g}"
        for series, text in zip(DCGM, said[1:], strict=True)
        if (value := number(text)) is not None
    ]
    return "\n".join([*lines, f"DCGM_FI_DEV_XID_ERRORS{labels} 0"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options(parser)
    parser.add_argument("--instances", type=int, default=4)
    parser.add_argument("--every", type=float, default=5.0, help="seconds between scrapes")
    arguments = parser.parse_args()
    arguments.sample_every = 0

    ended = threading.Event()
    with (
        serving(arguments, arguments.instances, arguments.output.with_suffix(".log")) as triton,
        arguments.output.open("w") as output,
    ):

        def scrape() -> None:
            began = time.monotonic()
            while True:
                lines = [UUID.sub("GPU-0", line) for line in shown(triton.metrics) if line[0] != "#"]
                at = round(time.monotonic() - began, 1)
                scraped = {"seconds": at, "triton": "\n".join(lines) + "\n", "dcgm": dcgm()}
                output.write(json.dumps(scraped) + "\n")
                output.flush()
                if ended.wait(arguments.every):
                    return

        scraper = threading.Thread(target=scrape)
        scraper.start()
        try:
            for case, processes, concurrency in (("single", 8, 32), ("system", 2, 4)):
                time.sleep(2 * arguments.every)
                print(case, load([triton.grpc], case, processes, concurrency, arguments.seconds), flush=True)
            time.sleep(2 * arguments.every)
        finally:
            ended.set()
            scraper.join()


if __name__ == "__main__":
    main()
