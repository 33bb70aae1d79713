"""What has to hold in a region before the next one is touched: the objectives of its release."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from model_tools.kube import Release, service_session
from model_tools.regions.fleet import Region
from model_tools.slo.release import evaluate, promised
from model_tools.slo.verdict import Verdict

Gate = Callable[[Region], list[Verdict]]
Report = Callable[[str], None]
# What the server says of requests that others send; a load test's throughput and batches are not of them.
OF_TRAFFIC = ("availability", "latency.server", "queueTime")


def by_traffic(window: str, report: Report = lambda text: None) -> Gate:
    """Judges what clients get in a window, such as 5m, that begins when the gate is asked.

    Objectives that are about a load test are left out. Where nobody sends requests nothing is measured, and
    what is not measured is missed. Raises BadInput for what is no window.
    """
    from model_tools.slo.measure import seconds

    length = seconds(window)

    def gate(region: Region) -> list[Verdict]:
        release = _release(region)
        end = time.monotonic() + length
        while (left := end - time.monotonic()) > 0:
            report(f"{region.name}: watches its requests for another {left:.0f} s")
            time.sleep(min(left, 5))
        wanted = [each for each in promised(release, []) if each.name in OF_TRAFFIC]
        return evaluate(release, wanted, None, window).verdicts

    return gate


def by_load(report: Report = lambda text: None) -> Gate:
    """Runs the region's own load test beside what traffic there is, and judges every objective."""

    def gate(region: Region) -> list[Verdict]:
        from loadtest.api import LocustApi
        from loadtest.run import Settings, run_load

        release = _release(region)
        master = (region.namespace, f"{release.fullname}-loadtest", 8089)
        api = LocustApi(*service_session(*master, context=region.context))
        settings = Settings.from_values(release.values)
        result = run_load(api, settings, lambda stage, done, shown: report(f"{region.name}: {stage} {shown}"))
        with tempfile.TemporaryDirectory() as folder:
            load = Path(folder) / "load.json"
            load.write_text(json.dumps({"release": release.name, "namespace": release.namespace, **result}))
            return evaluate(release, promised(release, []), load, "").verdicts

    return gate


def _release(region: Region) -> Release:
    return Release.load(region.release, region.namespace, region.context)
