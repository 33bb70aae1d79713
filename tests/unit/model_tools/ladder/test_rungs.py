"""A rung is exactly one change, and says what is wrong where it is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from model_tools.console import BadInput
from model_tools.ladder.rungs import read, steps, values
from model_tools.values import Values

ROOT = Path(__file__).parents[4]
LADDERS = sorted((ROOT / "values" / "ladder").iterdir())
BASE: Values = {
    "model": {
        "runtime": "openvino", "precision": "fp32", "instances": {"count": 1},
        "batching": {"maxSize": 1, "preferredSizes": []},
    },
    "slo": {"batchSize": 1},
}  # fmt: skip


def rung(**model: object) -> Values:
    return {**BASE, "model": {**BASE["model"], **model}}


BF16 = rung(precision="bf16")
BATCH = rung(precision="bf16", batching={"maxSize": 8, "preferredSizes": [8]})
TWO = rung(precision="bf16", batching={"maxSize": 8, "preferredSizes": [8]}, instances={"count": 2})


def write(folder: Path, *rungs: Values) -> Path:
    for number, content in enumerate(rungs, start=1):
        (folder / f"{number}-rung.yaml").write_text(f"# Rung {number}.\n{yaml.safe_dump(content)}")
    return folder


@pytest.mark.parametrize("ladder", LADDERS, ids=lambda folder: folder.name)
def test_the_projects_ladders_are_one_change_a_rung(ladder: Path) -> None:
    assert len(read(ladder)) >= 3


def test_rungs_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    contents = [rung(instances={"count": count}) for count in range(1, 12)]
    assert [found.name for found in read(write(tmp_path, *contents))][8:] == ["9-rung", "10-rung", "11-rung"]


def test_a_rungs_title_is_its_first_comment(tmp_path: Path) -> None:
    assert read(write(tmp_path, BASE, BF16))[1].title == "Rung 2."


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (BASE, "2-rung.yaml: changes nothing against 1-rung; a rung is one change"),
        (BATCH, "2-rung.yaml: changes optimisation and model.batching against 1-rung; a rung is one change"),
        ({"model": BASE["model"]}, "2-rung.yaml: slo is in one of it and 1-rung only;"),
        ({**BASE, "region": "x"}, "2-rung.yaml: region is in one of it and 1-rung only;"),
    ],
    ids=["nothing", "two", "less", "more"],
)
def test_a_rung_that_is_not_one_change_is_refused(second: Values, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as refused:
        read(write(tmp_path, BASE, second))
    assert message in str(refused.value)


def test_one_rung_is_no_ladder(tmp_path: Path) -> None:
    for folder in (write(tmp_path, BASE), tmp_path / "missing"):
        with pytest.raises(BadInput, match="a ladder has at least two rungs"):
            read(folder)


def test_a_runtime_its_precision_and_its_model_are_one_change(tmp_path: Path) -> None:
    ladder = write(
        tmp_path, rung(source={"image": {"tag": "a"}}), rung(source={"image": {"tag": "b"}}, precision="int8")
    )
    assert len(read(ladder)) == 2


def test_without_a_rejection_what_is_measured_is_what_the_files_say(tmp_path: Path) -> None:
    rungs = read(write(tmp_path, BASE, BF16, BATCH, TWO))
    assert [step.values for step in steps(rungs, ())] == [BASE, BF16, BATCH, TWO]
    assert [values(found.parts) for found in rungs] == [BASE, BF16, BATCH, TWO]


def test_a_rejected_change_is_taken_out_of_the_rungs_after_it(tmp_path: Path) -> None:
    rungs = read(write(tmp_path, BASE, BF16, BATCH, TWO))
    found = steps(rungs, {"2-rung"})
    assert [step.rung.name for step in found] == ["1-rung", "3-rung", "4-rung"]
    assert [step.values for step in found] == [
        BASE,
        rung(batching={"maxSize": 8, "preferredSizes": [8]}),
        rung(batching={"maxSize": 8, "preferredSizes": [8]}, instances={"count": 2}),
    ]


def test_a_change_of_what_was_rejected_is_the_file_as_it_is(tmp_path: Path) -> None:
    """INT8 in place of a rejected BF16 is what was measured: its values, and so its digest, are the same."""
    int8 = rung(precision="int8")
    rungs = read(write(tmp_path, BASE, BF16, int8))
    assert steps(rungs, {"2-rung"})[1].digest == steps(rungs, ())[2].digest
