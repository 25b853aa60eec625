"""Images in Parquet files: labels and splits, reading in bounded memory, and what a damaged file does."""

from __future__ import annotations

import hashlib
import random
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from listed_data import interleaved, write_parquet

import sharpzo_mlx as sz
from sharpzo_mlx.datasets.folder import read_folder
from sharpzo_mlx.datasets.listed import read_listed
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.features.cache import digest
from sharpzo_mlx.features.extract import encode
from sharpzo_mlx.images import parquet_rows
from sharpzo_mlx.images.decode import ImageError, open_image
from sharpzo_mlx.images.stored import is_there, read_order, split_stored

pytest.importorskip("pyarrow")

CLASSES = ["barn owl", "cat", "dog"]
CONFIG = sz.TuneConfig(shots=3, generations=2, steps=3).with_settings({"space.dimension": 8, "stage1.population": 6})


@pytest.fixture
def hub_set(photos: Path, tmp_path: Path) -> Path:
    """The photos as a data set of the hub: two training files and a test file in data/, with numbered labels."""
    images = [(file.read_bytes(), CLASSES.index(label)) for file, label in interleaved(photos)]
    for name, part in (
        ("train-00000-of-00002", images[:14]),
        ("train-00001-of-00002", images[14:27]),
        ("test-00000-of-00001", images[27:]),
    ):
        write_parquet(tmp_path / "set" / "data" / f"{name}.parquet", part, CLASSES, row_group_size=4)
    return tmp_path / "set"


def test_labels_and_splits(hub_set: Path, photos: Path) -> None:
    sets = read_listed(hub_set)
    assert sets is not None
    assert {split: len(images) for split, images in sets.items()} == {"train": 27, "test": 9}
    assert sets["train"].folders == tuple(CLASSES)
    known = {hashlib.sha256(file.read_bytes()).digest(): label for file, label in interleaved(photos)}
    for images in sets.values():
        for path, label in zip(images.paths, images.labels, strict=True):
            assert known[digest(path)] == images.folders[label]
    assert sets["test"].paths[0].name.startswith("test-00000-of-00001.parquet#")


def test_a_data_set_of_the_hub_is_tuned_like_its_files(
    hub_set: Path, photos: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = sz.load(tiny_model)
    run = sz.tune(clip, hub_set, CONFIG, output=tmp_path / "run")
    assert run.results.test is not None
    again = sz.tune(clip, hub_set, output=tmp_path / "run", resume=True)
    assert again.results == run.results
    (result,) = sz.evaluate(run, [hub_set]).folders
    assert (result.images, result.tuned, result.in_distribution) == (9, run.results.test, True)
    page = sz.write_report(run, landscape=False).read_text()
    assert "data:image/jpeg" in page
    assert "parquet#" in page
    (first, *_) = run.record.images.train
    path = hub_set / first[0]
    (predicted,) = sz.predict(run, [path])
    assert predicted.error is None


def test_features_are_those_of_files_in_any_order(hub_set: Path, photos: Path, tiny_model: Path) -> None:
    clip = sz.load(tiny_model)
    plain = encode(clip, read_folder(photos), cache=False)
    rows = {
        hashlib.sha256(path.read_bytes()).digest(): row
        for path, row in zip(plain.paths, np.array(plain.embeddings), strict=True)
    }
    sets = read_listed(hub_set)
    assert sets is not None
    for cache in (True, False):
        stored = encode(clip, sets["train"], cache=cache)
        assert stored.paths == tuple(sets["train"].paths)
        for path, row in zip(stored.paths, np.array(stored.embeddings), strict=True):
            np.testing.assert_allclose(row, rows[digest(path)], atol=1e-5)


@pytest.mark.parametrize("row_group_size", [1, 7, 1000])
def test_rows_in_any_order_and_few_in_memory(row_group_size: int, tmp_path: Path) -> None:
    images = [(bytes([place % 251]) * 100 + str(place).encode(), "x") for place in range(200)]
    file = write_parquet(tmp_path / "a.parquet", images, row_group_size=row_group_size)
    order = [*range(200), *random.Random(0).sample(range(200), 60)]
    assert [parquet_rows.read_row(file, row) for row in order] == [images[row][0] for row in order]
    for row in (200, 10**9):
        with pytest.raises(IndexError):
            parquet_rows.read_row(file, row)


def test_one_large_row_group_is_decoded_twice_where_blocks_are_digested_and_then_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = [b"%d" % number for number in range(600)]
    file = write_parquet(tmp_path / "x.parquet", [(content, "x") for content in contents], row_group_size=600)
    begun: list[int] = []
    plain = parquet_rows._Rows._begin

    def noted(rows: parquet_rows._Rows, group: int) -> parquet_rows._Cursor:
        begun.append(group)
        return plain(rows, group)

    monkeypatch.setattr(parquet_rows._Rows, "_begin", noted)
    for block in range(0, 600, 200):
        for _ in range(2):
            rows = range(block, block + 200)
            assert [parquet_rows.read_row(file, row) for row in rows] == contents[block : block + 200]
    assert begun == [0, 0]


def test_rows_are_read_onwards(tmp_path: Path) -> None:
    paths = [Path(f"{name}.parquet#{row}") for name, row in (("b", 2), ("a", 10), ("a", 9), ("b", 0))]
    assert read_order(paths) == [3, 1, 0, 2]
    assert read_order([Path("b.jpg"), Path("a.jpg")]) == [0, 1]


def test_labels_of_other_kinds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_parquet(tmp_path / "words.parquet", [(b"1", "cat"), (b"2", "dog"), (b"3", None)])
    sets = read_listed(tmp_path / "words.parquet")
    assert sets is not None
    assert (sets[""].folders, len(sets[""])) == (("cat", "dog"), 2)
    assert "1 images have no label and are left out" in caplog.text
    write_parquet(tmp_path / "numbers.parquet", [(b"1", 0), (b"2", -1), (b"3", 5)], ["cat"])
    found = read_listed(tmp_path / "numbers.parquet")
    assert found is not None
    assert [path.name for path in found[""].paths] == ["numbers.parquet#0"]


def test_a_plain_column_of_bytes(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"img": [b"a", b"b"], "fine_label": [1, 2]}), tmp_path / "x.parquet")
    sets = read_listed(tmp_path / "x.parquet")
    assert sets is not None
    assert sets[""].folders == ("1", "2")
    assert parquet_rows.read_row(tmp_path / "x.parquet", 1) == b"b"


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        ({"image": [b"a"], "caption": ["x"]}, "no column of labels among image, caption; call the one to use label"),
        ({"label": ["x"]}, "no column of images"),
    ],
)
def test_columns_that_are_missing(columns: dict[str, list[object]], match: str, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(UserError, match=match):
        read_listed(tmp_path / "x.parquet")


def test_damaged_files_are_one_line(photos: Path, tmp_path: Path) -> None:
    images = [(file.read_bytes(), label) for file, label in interleaved(photos)]
    file = write_parquet(tmp_path / "a.parquet", images)
    data = file.read_bytes()
    random_bytes = random.Random(1)
    for trial in range(60):
        damaged = bytearray(data)
        for _ in range(3):
            damaged[random_bytes.randrange(len(data))] = random_bytes.randrange(256)
        broken = tmp_path / f"{trial}.parquet"
        broken.write_bytes(damaged[: random_bytes.randrange(4, len(data))] if trial % 3 == 0 else damaged)
        with suppress(UserError):  # anything else fails the test
            for found in (read_listed(broken) or {}).values():
                for path in found.paths:
                    with suppress(ImageError):
                        open_image(path)


def test_without_the_package_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet(tmp_path / "a.parquet", [(b"1", "cat")])
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    parquet_rows.parquet.cache_clear()
    try:
        with pytest.raises(UserError, match=r'pip install "sharpzo-mlx\[parquet\]"'):
            read_listed(tmp_path / "a.parquet")
    finally:
        parquet_rows.parquet.cache_clear()


def test_a_file_of_such_a_name_is_a_file(photos: Path, tmp_path: Path) -> None:
    odd = tmp_path / "a.parquet#1"
    odd.write_bytes((photos / "cat" / "1.png").read_bytes())
    assert split_stored(odd) is None
    assert open_image(odd).size == (26, 20)
    assert not is_there(tmp_path / "b.parquet#1")
    with pytest.raises(ImageError, match="no such file"):
        open_image(tmp_path / "b.parquet#1")


@pytest.mark.parametrize(("label", "kind"), [(1.0, "double"), (True, "bool"), (["cat"], "list<")])
def test_labels_that_are_neither_text_nor_numbers(label: object, kind: str, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"image": [b"a"], "label": [label]}), tmp_path / "x.parquet")
    with pytest.raises(UserError, match=f"x.parquet: the column label has the type {kind}"):
        read_listed(tmp_path / "x.parquet")


def test_a_column_of_splits_is_one_throughout(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def read(*words: str) -> set[str]:
        columns = {"image": [b"a", b"b"], "label": pa.array(["cat", "dog"]).dictionary_encode(), "split": list(words)}
        pq.write_table(pa.table(columns), tmp_path / "train-x.parquet")
        sets = read_listed(tmp_path / "train-x.parquet")
        assert sets is not None
        return set(sets)

    assert read("Train", "validation") == {"train", "val"}
    assert read("web", "book") == {"train"}  # the file's name says it; where images come from does not
    with pytest.raises(UserError, match=r"train-x.parquet: has the split 'holdout'; write train, val or test"):
        read("train", "holdout")
