"""The openvino backend on a device of its own: batches of a real model that last a fixed time, as on a GPU.

Waiting for a device takes no processor, so what client and server need of it can be told apart. Lies in the
place of the backend's model.py, with that one beside it as real.py. PACE in the environment: seconds a batch
and a row. A file /tmp/hang stops every instance within its batch; /tmp/leak takes ever more memory.
"""

import importlib.util
import os
import select
import sys
import time
from pathlib import Path

spec = importlib.util.spec_from_file_location("real_backend", Path(__file__).with_name("real.py"))
real = importlib.util.module_from_spec(spec)
sys.modules["real_backend"] = real  # dataclasses look their module up
spec.loader.exec_module(real)

FIXED, EACH = (float(word) for word in os.environ["PACE"].split())
leaked = []


class TritonPythonModel(real.TritonPythonModel):
    def _infer(self, batch):
        began = time.monotonic()
        rows = super()._infer(batch)
        while Path("/tmp/hang").exists():
            time.sleep(0.05)
        while Path("/tmp/leak").exists():
            leaked.append(bytearray(os.urandom(1 << 20)) * 16)
        # Not time.sleep, which fails under a library that shows another clock (test_faults.py).
        select.select([], [], [], max(0.0, began + FIXED + EACH * len(batch) - time.monotonic()))
        return rows
