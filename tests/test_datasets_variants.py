"""ImageNet's variants recognised from the folder itself, mapping files, standard templates; each misfit is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sharpzo_mlx as sz
from sharpzo_mlx.datasets import imagenet
from sharpzo_mlx.datasets.evaluation_sets import recognise
from sharpzo_mlx.datasets.folder import read_folder
from sharpzo_mlx.datasets.templates import standard_template
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.tuning.pipeline import tune

IDS = imagenet.classes().ids
NAMES = tuple(imagenet.classes().names[wnid] for wnid in IDS)


def make(folder: Path, *classes: str) -> Path:
    """Class folders with one empty file each: listing opens none."""
    for name in classes:
        (folder / name).mkdir(parents=True)
        (folder / name / "1.jpg").touch()
    return folder


def test_the_list_is_what_it_says() -> None:
    assert len(IDS) == len(set(IDS)) == 1000
    assert list(IDS) == sorted(IDS)
    # known pairs, far apart: one slip in the order would show
    known = {"n01440764": "tench", "n02085620": "Chihuahua", "n07753592": "banana", "n15075141": "toilet paper"}
    assert {wnid: imagenet.classes().names[wnid] for wnid in known} == known
    sizes = {title: len(ids) for title, ids in imagenet.classes().subsets.items()}
    assert sizes == {"ImageNet-A": 200, "ImageNet-R": 200}


def test_curated_names_where_there_is_no_list(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read_folder(make(tmp_path / "val", *IDS)).class_names == NAMES
    numbered = read_folder(make(tmp_path / "v2", *map(str, range(1000))))
    assert numbered.class_names[numbered.folders.index("123")] == NAMES[123]
    (tmp_path / "some" / "n01440764").mkdir(parents=True)
    (tmp_path / "some" / "n01440764" / "1.jpg").touch()
    (tmp_path / "some" / "classnames.txt").write_text("n01440764 a fish\n")
    assert read_folder(tmp_path / "some").class_names == ("a fish",)
    make(tmp_path / "other", "n99999999", "n01440764")
    assert read_folder(tmp_path / "other").class_names == ("n01440764", "n99999999")
    assert caplog.text == ""  # it is told where a data set is drawn for tuning


def test_numbered_folders_count_in_class_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (scored,) = recognise(make(tmp_path / "v2", *map(str, range(1000))), NAMES, IDS)
    assert scored.kind == "ImageNet's 1000 classes by number"
    for path, label in zip(scored.images.paths, scored.images.labels, strict=True):
        assert label == int(path.parent.name)
    tuned = ("n1", "n2", "n3", "n4")
    make(tmp_path / "gap", "0", "1", "3")
    (gap,) = recognise(tmp_path / "gap", tuned, tuned)
    assert gap.images.labels == (0, 1, 3)
    assert "no folder 2" in caplog.text
    # a run on numbered folders, evaluated on folders of ids
    numbers = tuple(sorted(map(str, range(1000))))
    run_names = tuple(NAMES[int(number)] for number in numbers)
    (back,) = recognise(make(tmp_path / "ids", IDS[7], IDS[657]), run_names, numbers)
    assert sorted(numbers[label] for label in back.images.labels) == ["657", "7"]


@pytest.mark.parametrize(
    ("folders", "match"),
    [
        (["0", "1", "4"], "a folder 4, but the 4 tuned classes are numbered 0 to 3"),
        (["0", "1"], "numbers end at 1, the tuned classes at 3"),
        (["0", "1", "01", "3"], "the number 1 occurs twice"),
        (["n1", "0"], "not tuned: 0"),
    ],
)
def test_numbers_that_do_not_fit_are_named(folders: list[str], match: str, tmp_path: Path) -> None:
    tuned = ("n1", "n2", "n3", "n4")
    with pytest.raises(UserError, match=match):
        recognise(make(tmp_path / "set", *folders), tuned, tuned)


@pytest.mark.parametrize(
    ("tuned", "folders", "labels"),
    [
        ([str(number) for number in range(12)], [f"{number:02d}" for number in range(12)], None),
        ([str(number) for number in range(1, 13)], [f"{number:02d}" for number in range(1, 13)], None),
        ([f"{number:03d}" for number in range(1, 8)], ["7"], [7]),
        (["07", "3"], ["007", "3"], [3, 7]),
    ],
)
def test_numbers_are_compared_as_numbers(
    tuned: list[str], folders: list[str], labels: list[int] | None, tmp_path: Path
) -> None:
    tuned = sorted(tuned)
    (scored,) = recognise(make(tmp_path / "set", *folders), tuned, tuned)
    for path, label in zip(scored.images.paths, scored.images.labels, strict=True):
        assert int(path.parent.name) == int(tuned[label])
    assert labels is None or sorted(int(path.parent.name) for path in scored.images.paths) == labels


@pytest.mark.parametrize(
    ("tuned", "folders", "match"),
    [
        (["1", "2", "3"], ["00", "01", "02"], "the folders 0 are not among the tuned classes, the numbers 1, 2, 3"),
        (["7", "07", "3"], ["007", "03"], "two tuned classes have the number 7"),
        (["c1", "c10", "c2"], ["0", "1", "2"], "numbers in their names"),
    ],
)
def test_numbers_of_unknown_classes_are_refused(
    tuned: list[str], folders: list[str], match: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=match):
        recognise(make(tmp_path / "set", *folders), tuned, tuned)


@pytest.mark.parametrize("title", ["ImageNet-A", "ImageNet-R"])
def test_subsets_of_200_compete_among_themselves(title: str, tmp_path: Path) -> None:
    ids = imagenet.classes().subsets[title]
    folder = make(tmp_path / "set", *ids)
    (scored,) = recognise(folder, NAMES, IDS)
    assert {IDS[k] for k in scored.candidates} == ids
    assert title in scored.kind
    assert all(path.parent.name == IDS[k] for path, k in zip(scored.images.paths, scored.images.labels, strict=True))
    assert len(recognise(folder, NAMES, IDS, scope="all")[0].candidates) == 1000
    plain = make(tmp_path / "plain", *IDS[:200])
    assert len(recognise(plain, NAMES, IDS)[0].candidates) == 1000
    assert len(recognise(plain, NAMES, IDS, scope="own")[0].candidates) == 200


def test_trees_of_corruptions(tmp_path: Path) -> None:
    tuned = ("cat", "dog")
    for corruption in ("blur/defocus", "noise/shot"):
        for severity in ("1", "5"):
            make(tmp_path / "c" / corruption / severity, *tuned)
    sets = recognise(tmp_path / "c", tuned, tuned)
    assert [s.part for s in sets] == [("defocus", "1"), ("defocus", "5"), ("shot", "1"), ("shot", "5")]
    assert all(s.images.labels == (0, 1) for s in sets)
    assert [s.part for s in recognise(tmp_path / "c" / "blur", tuned, tuned)] == [("defocus", "1"), ("defocus", "5")]
    assert [s.part for s in recognise(tmp_path / "c/noise/shot", tuned, tuned)] == [("shot", "1"), ("shot", "5")]
    make(tmp_path / "c" / "extra", "zebra")
    with pytest.raises(UserError, match="extra: no severities"):
        recognise(tmp_path / "c", tuned, tuned)


def test_mapping_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tuned, ids = ("analog clock", "wall clock", "banana", "cup"), ("n1", "n2", "n3", "n4")
    folder = make(tmp_path / "objectnet", "clock", "fruit", "air_freshener")
    file = tmp_path / "map.json"
    file.write_text(json.dumps({"Clock": "wall clock, big; n1", "fruit": ["banana"], "air freshener": None}))
    (scored,) = recognise(folder, tuned, ids, mapping=file)
    assert scored.images.folders == ("clock", "fruit")
    np.testing.assert_array_equal(scored.owner, [0, 0, 1, -1])
    np.testing.assert_array_equal(scored.candidates, [0, 1, 2])
    assert f"left out, because {file} gives them no class: air_freshener" in caplog.text
    assert len(recognise(folder, tuned, ids, mapping=file, scope="all")[0].candidates) == 4
    lines = tmp_path / "map.txt"
    lines.write_text("clock n2\nfruit banana\n")
    np.testing.assert_array_equal(recognise(folder, tuned, ids, mapping=lines)[0].owner, [-1, 0, 1, -1])
    for text, match in (
        ('{"clock": "sundial"}', "'sundial' is not a tuned class"),
        ('{"clock": "cup", "fruit": "cup"}', "stands for clock and fruit"),
        ('{"x": "cup"}', "names none of the class folders"),
        ('{"clock": 5}', "cannot be read as a mapping"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=match):
            recognise(folder, tuned, ids, mapping=file)


def test_standard_templates(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    assert standard_template(tmp_path / "data") is None
    (tmp_path / "data" / "split_zhou_EuroSAT.json").touch()
    assert standard_template(tmp_path / "data") == "a centered satellite photo of {}."
    assert standard_template(tmp_path / "FGVC_Aircraft") == "a photo of a {}, a type of aircraft."


def test_a_known_data_set_is_tuned_with_its_template(tiny_model: Path, photos: Path, tmp_path: Path) -> None:
    """And a template that is given overrides it; the run that continues keeps its own."""
    named = tmp_path / "sets" / "oxford_pets"
    shutil.copytree(photos, named)
    small: dict[str, Any] = {"shots": 4, "space.dimension": 8, "generations": 1, "stage1.population": 4, "steps": 0}
    clip = sz.load(tiny_model)
    run = tune(clip, named, sz.TuneConfig().with_settings(small), output=tmp_path / "run")
    assert run.prompt.template == run.config.template == "a photo of a {}, a type of pet."
    again = tune(clip, named, sz.TuneConfig().with_settings(small), output=tmp_path / "run", resume=True)
    assert again.config == run.config
    given = tune(clip, named, sz.TuneConfig(template="my {}.").with_settings(small), output=tmp_path / "other")
    assert given.prompt.template == "my {}."
