"""The openvino backend on a device of its own: batches of a real model that last a fixed time, as on a GPU.

Waiting for a device takes no processor, so what client and server need of it can be told apart. The instances
share the device, one batch after the other, so that one brings its next batch while the other's is computed.
Lies in the place of the backend's model.py, with that one beside it as real.py. PACE in the environment:
seconds a batch and a row. A file /tmp/hang stops every instance within its batch; /tmp/leak takes ever more
memory.
"""

import fcntl
import importlib.util
import os
import select
import struct
import sys
import time
from pathlib import Path

spec = importlib.util.spec_from_file_location("real_backend", Path(__file__).with_name("real.py"))
real = importlib.util.module_from_spec(spec)
sys.modules["real_backend"] = real  # dataclasses look their module up
spec.loader.exec_module(real)

FIXED, EACH = (float(word) for word in os.environ["PACE"].split())
leaked = []


def until_computed(seconds):
    """Returns once the device has computed for so long, after what it was given before."""
    with Path("/tmp/device").open("a+b") as device:
        fcntl.flock(device, fcntl.LOCK_EX)
        device.seek(0)
        given = device.read()
        now = time.monotonic()
        free = struct.unpack("d", given)[0] if given else now
        # No more than a batch of another instance is before this one, whatever clock an earlier process saw.
        ready = min(max(now, free), now + 2 * seconds) + seconds
        device.truncate(0)
        device.write(struct.pack("d", ready))
    # Not time.sleep, which fails under a library that shows another clock (test_faults.py).
    select.select([], [], [], ready - now)


class TritonPythonModel(real.TritonPythonModel):
    def _infer(self, batch):
        rows = super()._infer(batch)
        while Path("/tmp/hang").exists():
            time.sleep(0.05)
        while Path("/tmp/leak").exists():
            leaked.append(bytearray(os.urandom(1 << 20)) * 16)
        until_computed(FIXED + EACH * len(batch))
        return rows
