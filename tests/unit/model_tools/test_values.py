"""Values files merge as Helm merges them, and a broken one is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_tools.console import BadInput
from model_tools.values import load_values, models


def values(folder: Path, *texts: str) -> dict[str, object]:
    files = []
    for number, text in enumerate(texts):
        files.append(folder / f"{number}.yaml")
        files[-1].write_text(text)
    return load_values(files, defaults=None)


def test_mappings_merge_and_the_last_file_wins(tmp_path: Path) -> None:
    merged = values(tmp_path, "a: {b: 1, c: 2}\nd: [1, 2]", "a: {b: 3}\nd: [4]", "e: 5")
    assert merged == {"a": {"b": 3, "c": 2}, "d": [4], "e": 5}


def test_null_takes_a_default_away(tmp_path: Path) -> None:
    assert values(tmp_path, "a: {b: 1, c: 2}", "a: {b: null}") == {"a": {"c": 2}}


def test_a_mapping_replaces_a_number_and_the_other_way_round(tmp_path: Path) -> None:
    assert values(tmp_path, "a: 1\nb: {c: 1}", "a: {d: 2}\nb: 3") == {"a": {"d": 2}, "b": 3}


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert values(tmp_path, "a: 1", "# nothing\n") == {"a": 1}


def test_an_extra_model_is_the_first_with_its_changes_and_its_name() -> None:
    model = {"name": "large", "batching": {"maxSize": 16, "preferredSizes": [16]}, "version": 2}
    changes = {"batching": {"preferredSizes": []}, "version": 3}
    assert models({"model": model, "extraModels": {"small": changes}}) == {
        "model": model,
        "extraModels.small": {
            "name": "small",
            "batching": {"maxSize": 16, "preferredSizes": []},
            "version": 3,
        },
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"small": {"name": "tiny"}}, "extraModels.small.name: "),
        ({"large": {}}, "extraModels.large: is the name of model already"),
        ({"small": 1}, "extraModels.small: is 1, and has to be a mapping"),
    ],
)
def test_an_extra_model_has_one_name_of_its_own(changes: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=f"^{message}"):
        models({"model": {"name": "large"}, "extraModels": changes})


@pytest.mark.parametrize("key", ["model", "extraModels"])
def test_models_are_mappings(key: str) -> None:
    with pytest.raises(BadInput, match=rf"^{key}: is \['small'\], and has to be a mapping"):
        models({"model": {"name": "large"}, "extraModels": {"other": {}}, key: ["small"]})


@pytest.mark.parametrize(
    ("text", "message"),
    [("- 1", "holds a list"), ("a: [1", "not YAML in line 1"), ("a: 1\na:\tb", "not YAML in line 2")],
)
def test_a_file_that_holds_no_values_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BadInput, match=rf"^{tmp_path}/0.yaml: {message}"):
        values(tmp_path, text)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"none.yaml: No such file"):
        load_values([tmp_path / "none.yaml"], defaults=None)
