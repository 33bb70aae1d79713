"""The tables of docs/reliability.md, from what the tests in tests/e2e/reliability wrote down.

    python -m benchmarks.reliability            takes the rows of build/reliability over, writes the tables
python -m benchmarks.reliability --check    whether the tables are those of the record
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from benchmarks.documents import between
from model_tools.console import CheckFailed, run

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "benchmarks" / "reliability.json"
DOCUMENT = ROOT / "docs" / "reliability.md"
ROWS = ROOT / "build" / "reliability"
# In the order of the table; a row that is not named here comes last.
ORDER = (
    "triton-killed", "out-of-memory", "memory-nearly-full", "instance-killed", "instance-hangs",
    "instance-stopped", "triton-stopped", "node-lost", "kubelet-stopped", "containerd-stopped",
    "packet-loss", "narrow-link", "dns-gone", "prometheus-gone", "api-server-gone", "disk-full", "clock-off",
    "overload", "overload-steps", "priorities", "soak", "soak-long",
)  # fmt: skip


def ordered(rows: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        rows[name] for name in sorted(rows, key=lambda n: (ORDER.index(n) if n in ORDER else len(ORDER), n))
    ]


def faults(rows: list[dict[str, Any]]) -> str:
    """What each fault cost."""
    lines = [
        "| promise | fault | load at the time | sent gRPC, HTTP | failed gRPC, HTTP | which may fail"
        " | last failure after | all pods back after | p95 before, meanwhile |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        sent, failed = (f"{row[key]['grpc']:,}, {row[key]['http']:,}" for key in ("sent", "failed"))
        whole = "" if row["whole"] is None else f"{row['whole']:.0f} s"
        last = f"{row['recovered']:.1f} s" if any(row["failed"].values()) else "none failed"
        cells = [row["promise"], row["fault"], row["load"], sent, failed, row["may_fail"], last, whole]
        p95s = [row["more"].get(f"p95 {when}, s") for when in ("before", "meanwhile")]
        cells.append("" if None in p95s else f"{p95s[0]:g} s, {p95s[1]:g} s")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def figures(rows: list[dict[str, Any]]) -> str:
    """What else a row measured: one table a row."""
    parts = []
    for row in rows:
        sent = sum(row["sent"].values())
        refused = ", ".join(f"{count:,} {kind}" for kind, count in row["kinds"].items()) or "none"
        lines = [
            f"**{row['promise'][0].upper()}{row['promise'][1:]}**: {row['fault']}, {row['load']}; {sent:,}"
            f" requests, not answered: {refused}.",
            "",
            "| | |",
            "|---|---|",
            *(f"| {name} | {value:g} |" for name, value in row["more"].items()),
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def written(document: str, rows: dict[str, Any]) -> str:
    """The document with its tables between `<!-- PART -->` and `<!-- end -->` made anew."""
    for part, make in (("faults", faults), ("overload", steps_table), ("soak", figures)):
        chosen = [row for row in ordered(rows) if row["part"] == part]
        text = make(chosen) if chosen else "Not measured yet."
        document = between(document, part, text)
    return document


def steps_table(rows: list[dict[str, Any]]) -> str:
    """Overloads step by step, and then what each row measured besides."""
    parts = []
    for row in rows:
        more = dict(row["more"])
        steps = [name.split()[1] for name in more if name.startswith("offered ")]
        table = [
            "| offered / capacity | requests/s | answered in time /s | Triton's and the proxy's processors |",
            "|---|---|---|---|",
        ]
        for step in steps:
            offered, goodput, processor = (
                more.pop(f"{what} {step}") for what in ("offered", "goodput", "processor")
            )
            table.append(f"| {step} | {offered:.0f} | {goodput:.0f} | {processor:.2f} |")
        text = figures([row | {"more": more}])
        if steps:
            text = f"{text}\n\n" + "\n".join(table)
            text += f"\n\nThe last request that was not answered in time ended {row['recovered']:g} s after"
            text += " the load had fallen to half the capacity."
        parts.append(text)
    return "\n\n".join(parts)


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; status 1 where the tables are not current.")
def cli(check: bool) -> None:
    """The tables of docs/reliability.md."""
    rows: dict[str, Any] = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    if not check:
        rows |= {file.stem: json.loads(file.read_text()) for file in sorted(ROWS.glob("*.json"))}
        RECORD.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n")
    before = DOCUMENT.read_text()
    after = written(before, rows)
    if check and after != before:
        raise CheckFailed(
            "docs/reliability.md is not what benchmarks/reliability.json says: make reliability"
        )
    DOCUMENT.write_text(after)


if __name__ == "__main__":
    run(cli, "benchmarks.reliability")
