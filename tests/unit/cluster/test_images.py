"""An image is built again when, and only when, something that it is made from changes."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import yaml

from cluster import images as cluster_images
from cluster.paths import REPOSITORY
from images import base, build, buildah
from images.build import Image, inputs
from model_tools.console import BadInput

CONTAINERFILE = """ARG BASE_IMAGE=debian:bookworm-slim
FROM ${BASE_IMAGE} AS first
# COPY commented /out
COPY --chown=1000:1000 \\
    one.txt folder /there/
FROM ${BASE_IMAGE}
COPY --from=first /there /here
"""


@pytest.fixture
def image(tmp_path: Path) -> Image:
    (tmp_path / "Containerfile").write_text(CONTAINERFILE)
    (tmp_path / "one.txt").write_text("1")
    (tmp_path / "folder/inner/__pycache__").mkdir(parents=True)
    (tmp_path / "folder/inner/two.txt").write_text("2")
    (tmp_path / "folder/inner/__pycache__/two.pyc").write_text("compiled")
    (tmp_path / "other.txt").write_text("not copied")
    return Image("thing", tmp_path / "Containerfile", tmp_path)


def tag(image: Image) -> str:
    return Image(image.name, image.containerfile, image.context, image.target).tag


def test_inputs_are_what_copy_lines_name(image: Image) -> None:
    found = [str(path.relative_to(image.context)) for path in build.inputs(CONTAINERFILE, image.context)]
    assert found == ["one.txt", "folder/inner/two.txt"]


def test_a_tag_is_twelve_hex_digits_and_does_not_change_by_itself(image: Image) -> None:
    assert tag(image) == tag(image)
    assert len(tag(image)) == 12
    int(tag(image), 16)


@pytest.mark.parametrize("file", ["one.txt", "folder/inner/two.txt", "Containerfile"])
def test_changed_content_changes_the_tag(image: Image, file: str) -> None:
    before = tag(image)
    with (image.context / file).open("a") as content:
        content.write("\n")
    assert tag(image) != before


def test_a_file_that_becomes_a_program_changes_the_tag(image: Image) -> None:
    before = tag(image)
    (image.context / "one.txt").chmod(0o755)
    assert tag(image) != before


@pytest.mark.parametrize("file", ["other.txt", "folder/inner/__pycache__/two.pyc"])
def test_what_is_not_copied_does_not_change_the_tag(image: Image, file: str) -> None:
    before = tag(image)
    (image.context / file).write_text("changed")
    assert tag(image) == before


def test_another_base_changes_the_tag(image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tag(image)
    monkeypatch.setattr(base, "tag", lambda: "another")
    assert tag(image) != before


def test_a_source_that_does_not_exist_is_named(image: Image) -> None:
    (image.context / "one.txt").unlink()
    with pytest.raises(BadInput, match=r"one\.txt, which an image copies, does not exist"):
        tag(image)


def test_an_unknown_image_is_named() -> None:
    with pytest.raises(BadInput, match="no image is called tritoon"):
        build.known("tritoon")


def test_a_model_image_is_named_after_the_model(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(json.dumps({"name": "resnet50"}))
    assert build.known("model", tmp_path).repository() == "localhost/inference-system/model-resnet50"


@pytest.mark.parametrize("content", [None, "not json", "{}", '{"name": "Not A Name"}', "[]"])
def test_a_folder_that_is_no_model_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "model.json").write_text(content)
    with pytest.raises(BadInput, match=str(tmp_path)):
        build.known("model", tmp_path)


@pytest.mark.parametrize("tag", ["140980250e51", "123456789012"])
def test_a_tag_that_looks_like_a_number_is_text_to_helm(image: Image, tmp_path: Path, tag: str) -> None:
    values = tmp_path / "values.yaml"
    build.write_values(
        [Image("tools", image.containerfile, image.context, values=("tools",), label=tag)], values
    )
    assert f'"{tag}"' in values.read_text()


def test_values_name_what_was_built_and_keep_the_rest(image: Image, tmp_path: Path) -> None:
    values = tmp_path / "build/images.yaml"
    build.write_values([Image("tools", image.containerfile, image.context, values=("tools",))], values)
    build.write_values(
        [Image("model-m", image.containerfile, image.context, values=("model", "source"))], values
    )
    read = yaml.safe_load(values.read_text())
    assert read["tools"]["image"]["repository"] == "localhost/inference-system/tools"
    assert read["model"]["source"]["image"] == {
        "repository": "localhost/inference-system/model-m",
        "tag": Image("model-m", image.containerfile, image.context).tag,
    }


def test_an_image_that_values_name_and_nobody_built_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buildah, "folder", lambda: tmp_path)
    values = tmp_path / "images.yaml"
    values.write_text(
        "a: {image: {repository: localhost/x/tools, tag: t1}}\nb: {c: {image: {repository: y, tag: t2}}}"
    )
    (tmp_path / "tools-t1.tar").touch()
    with pytest.raises(BadInput, match="names y:t2, which is not built"):
        cluster_images.built(values)
    (tmp_path / "y-t2.tar").touch()
    assert [archive for _, archive in cluster_images.built(values)] == [
        tmp_path / "tools-t1.tar",
        tmp_path / "y-t2.tar",
    ]


MIRROR = "http://mirror.example/debian"


@pytest.mark.parametrize(
    "sources",
    [
        f"deb {MIRROR} bookworm main contrib\n",
        f"deb-src http://other.example bookworm main\ndeb [signed-by=/k.gpg] {MIRROR}/ bookworm main\n",
        f"Types: deb\nURIs: {MIRROR}\nSuites: bookworm bookworm-updates\nComponents: main\n",
        f"Types: deb\nURIs: http://x.example/\nSuites: trixie\n\nURIs: {MIRROR}\nSuites: bookworm\n",
    ],
)
def test_the_release_comes_from_where_this_machine_gets_its_packages(sources: str) -> None:
    assert base.find_mirror(sources) == MIRROR


@pytest.mark.parametrize("sources", ["", "deb http://security.example bookworm-security main\n"])
def test_without_a_mirror_of_the_release_it_comes_from_debian(sources: str) -> None:
    assert base.find_mirror(sources) == base.MIRROR


def test_pip_in_a_build_is_set_up_as_here_and_variables_win() -> None:
    files = "[global]\nindex-url = https://a.example/simple\ntimeout = 5\n"
    settings = buildah.pip_settings({"PIP_INDEX_URL": "https://b.example/simple", "HOME": "/root"}, files)
    assert settings == {"index-url": "https://b.example/simple", "timeout": "5"}
    assert buildah.pip_conf(settings) == "[global]\nindex-url = https://b.example/simple\ntimeout = 5\n"


def test_seeds_of_checkouts_that_take_turns_are_kept(tmp_path: Path) -> None:
    whole = [tmp_path / f"seed-{number:012x}" for number in range(4)]
    more = [tmp_path / f"{whole[0].name}-{number:012x}" for number in range(4)]
    for used, seed in enumerate([*whole, *more]):
        seed.mkdir()
        os.utime(seed, (used, used))
    cluster_images._keep_seed(whole[0], f"seed-{cluster_images.TAG}")
    assert {*tmp_path.iterdir()} == {whole[0], *whole[2:], *more}
    cluster_images._keep_seed(more[3], f"seed-{cluster_images.TAG}-{cluster_images.TAG}")
    assert {*tmp_path.iterdir()} == {whole[0], *whole[2:], *more[1:]}


def test_the_archives_that_were_used_last_are_kept(tmp_path: Path) -> None:
    archives = [tmp_path / f"tools-{number}.tar" for number in range(5)]
    for used, archive in enumerate(archives):
        archive.touch()
        os.utime(archive, (used, used))
    os.utime(archives[0], (9, 9))
    assert build.older(archives) == [archives[2], archives[1]]
    assert build.older(archives[: build.KEPT]) == []


def test_another_image_underneath_changes_the_tag(image: Image, tmp_path: Path) -> None:
    (tmp_path / "upper").mkdir()
    (tmp_path / "upper" / "Containerfile").write_text("ARG TRITON_IMAGE\nFROM ${TRITON_IMAGE}\n")

    def upper() -> str:
        under = Image(image.name, image.containerfile, image.context)
        return Image("upper", tmp_path / "upper" / "Containerfile", tmp_path / "upper", on=under).tag

    before = upper()
    assert upper() == before
    (image.context / "one.txt").write_text("changed")
    assert upper() != before


@pytest.mark.parametrize("name", ["triton-cpu", "engine"])
def test_tritons_images_preload_what_they_compile(name: str) -> None:
    """A library that is not there costs no more than a line of the log, and what it is for."""
    file = REPOSITORY / "images" / name / "Containerfile"
    assert REPOSITORY / "images/preload/shapes.c" in inputs(file.read_text(), REPOSITORY)
    *_, compiling, last = file.read_text().split("\nFROM ")
    (preloaded,) = re.findall(r"LD_PRELOAD=(\S+)", last)
    (library,) = re.findall(r"RUN \S*/preload/compile (\S+)", compiling)
    copied = re.findall(r"COPY --from=\S+ (\S+) (\S+)", last)
    assert preloaded in [library.replace(source, there, 1) for source, there in copied if source in library]


def test_triton_with_tensorflow_is_built_on_triton_without() -> None:
    found = build.known("triton-tensorflow")
    assert found.on is not None
    assert (found.on.name, found.values) == ("triton-cpu", found.on.values)


def test_a_models_image_has_the_tag_that_values_name_it_by(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text('{"name": "mine"}')
    image = build.known("model", tmp_path, "int8")
    assert image.reference() == "localhost/inference-system/model-mine:int8"
    build.write_values([image], tmp_path / "values.yaml")
    written = yaml.safe_load((tmp_path / "values.yaml").read_text())
    assert written["model"]["source"]["image"]["tag"] == "int8"
