"""Files that list or store images as input of `predict`, `suggest`, `evaluate --foreign`, `add` and `sort`."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from listed_data import interleaved, write_parquet, write_tar

import sharpzo_mlx as sz
from sharpzo_mlx.cli.main import run as command
from sharpzo_mlx.evaluation.foreign import find_images
from sharpzo_mlx.runs.labelled import LABELLED

pytest.importorskip("pyarrow")
FORMS = ("parquet", "tar", "csv")
Capture = pytest.CaptureFixture[str]
Refused = Callable[..., str]


def write(form: str, photos: Path, folder: Path, *, labels: bool = True) -> Path:
    """Write the photos, their classes mixed, as one file of a form, with labels or without."""
    found = interleaved(photos)
    folder.mkdir(parents=True, exist_ok=True)
    if form == "parquet":
        return write_parquet(
            folder / "a.parquet", [(file.read_bytes(), label if labels else None) for file, label in found]
        )
    if form == "tar":
        members = [("x/._0000.png", b"what macOS adds")]
        for number, (file, label) in enumerate(found):
            members += [(f"x/{number:04}.PNG", file.read_bytes())]
            members += [(f"x/{number:04}.cls", label.encode())] if labels else []
        return write_tar(folder / "a.tar", members)
    rows = [f"{file},{label}" if labels else f"{file}" for file, label in found]
    (folder / "a.csv").write_text("\n".join(["path,label" if labels else "path", *rows, rows[0]]))
    return folder / "a.csv"


def files_of(photos: Path) -> list[Path]:
    return [file for file, _ in interleaved(photos)]


def stored_name(form: str, number: int, photos: Path) -> str:
    if form == "csv":
        return str(interleaved(photos)[number][0])
    return f"a.parquet#{number}" if form == "parquet" else f"a.tar#x/{number:04}.PNG"


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_predict_labels_the_images_inside(
    form: str, labels: bool, finished_run: Path, photos: Path, tmp_path: Path
) -> None:
    found = sz.predict(finished_run, write(form, photos, tmp_path, labels=labels), top=2)
    files = files_of(photos)
    for one, other in zip(found, sz.predict(finished_run, files, top=2), strict=True):
        assert dict(one.labels) == pytest.approx(dict(other.labels), abs=1e-4)
    assert [str(one.path).removeprefix(f"{tmp_path}/") for one in found] == [
        stored_name(form, number, photos) for number in range(36)
    ]
    (alone,) = sz.predict(finished_run, found[17].path, top=2)
    assert alone.path == found[17].path
    assert dict(alone.labels) == pytest.approx(dict(found[17].labels), abs=1e-4)


def test_predict_resumes_in_the_middle_of_a_file(
    finished_run: Path, photos: Path, tmp_path: Path, capsys: Capture
) -> None:
    words = ["predict", str(finished_run), str(write("parquet", photos, tmp_path)), "--output", str(tmp_path / "o.csv")]
    assert command(words) == 0
    whole = (tmp_path / "o.csv").read_text()
    (tmp_path / "o.csv").write_text("".join(whole.splitlines(keepends=True)[:11]) + "half a li")
    capsys.readouterr()
    assert command([*words, "--resume"]) == 0
    assert (tmp_path / "o.csv").read_text() == whole
    assert capsys.readouterr().out == f"{tmp_path / 'o.csv'}: 27 images written, 9 were there already\n"


def test_a_row_without_an_image_does_not_stop_the_others(finished_run: Path, photos: Path, tmp_path: Path) -> None:
    image = (photos / "cat" / "0.png").read_bytes()
    file = write_parquet(tmp_path / "a.parquet", [(image, None), (b"none", "x"), (image, "x")])
    found = sz.predict(finished_run, file)
    assert [bool(one.labels) for one in found] == [True, False, True]
    assert found[1].error


def test_files_in_a_folder_are_read_where_no_image_lies_beside_them(
    finished_run: Path, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write("tar", photos, tmp_path / "set" / "data")
    found = sz.predict(finished_run, tmp_path / "set")
    assert [one.path for one in found] == [file.parent / stored_name("tar", number, photos) for number in range(36)]
    shutil.copy(photos / "cat" / "0.png", file.parent)  # the tar file may be what the images were unpacked from
    assert [one.path.name for one in sz.predict(finished_run, file.parent)] == ["0.png"]
    assert "left out of folders: 1 .tar (name such a file, and its images are read)" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"name,label\nx,y\n", "line 1 names no column of images; begin it with the line path"),
        ("a.csv", b"path\n\nb.png\n\0\n", "line 4 has the path '\\x00', which is none"),
        ("a.csv", b"path\n\xff.png\n", "cannot be read as a table"),
        ("a.parquet", b"PAR1 no", "cannot be read as Parquet"),
        ("a.tar", b"no", "give uncompressed tar files"),
        ("a.tar.gz", b"no", "a compressed tar file; unpack it once"),
    ],
)
def test_files_that_cannot_be_read_are_one_line(
    name: str, content: bytes, words: str, finished_run: Path, photos: Path, tmp_path: Path, refused: Refused
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    for line in (
        refused("predict", finished_run, file),
        refused("suggest", finished_run, file),
        refused("evaluate", finished_run, photos, "--foreign", file),
    ):
        assert words in line
        assert str(file) in line


def test_a_file_that_cannot_be_read_does_not_stop_the_others(
    finished_run: Path, photos: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the middle of a list on stdin, such as that of `find`."""
    (tmp_path / "notes.csv").write_text("day,weather\n")
    (tmp_path / "a.tar").write_bytes(b"no")
    names = [str(path) for path in (tmp_path / "notes.csv", photos / "cat" / "0.png", tmp_path / "a.tar")]
    for words in (names, ["-"]):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(names).encode())))
        assert command(["predict", str(finished_run), *words, "--json"]) == 0
        out, err = capsys.readouterr()
        records = json.loads(out)["predictions"]
        assert [(one["path"], bool(one["error"])) for one in records] == list(zip(names, (1, 0, 1), strict=True))
        assert f"note: {names[0]}: line 1 names no column of images; begin it with the line path\n" in err
        assert "give uncompressed tar files" in err


def test_a_parquet_file_without_images_or_the_package_is_one_line(
    finished_run: Path, photos: Path, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from sharpzo_mlx.images.parquet_rows import parquet

    pq.write_table(pa.table({"text": ["a"], "label": ["b"]}), tmp_path / "a.parquet")
    assert "no column of images" in refused("predict", finished_run, tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    parquet.cache_clear()
    try:
        assert 'pip install "sharpzo-mlx[parquet]"' in refused("predict", finished_run, tmp_path / "a.parquet")
    finally:
        parquet.cache_clear()


@pytest.mark.parametrize("form", FORMS)
def test_foreign_images_may_be_listed(form: str, finished_run: Path, photos: Path, tmp_path: Path) -> None:
    file = write(form, photos, tmp_path / "strangers", labels=False)
    run = shutil.copytree(finished_run, tmp_path / "run")
    report = sz.evaluate(run, photos, foreign=[file, photos])
    listed, plain = report.foreign
    assert (listed.path, listed.images, listed.rejected) == (file, 36, plain.rejected)
    assert sorted(listed.distances) == pytest.approx(sorted(plain.distances), rel=1e-3)
    if form != "csv":
        assert len(find_images(file.parent)) == 36


@pytest.mark.parametrize("form", FORMS)
def test_images_of_a_list_are_added(form: str, finished_run: Path, photos: Path, tmp_path: Path) -> None:
    more = shutil.copytree(photos, tmp_path / "more")
    (more / "dog").rename(more / "fox")  # a class that is new; these images are in no split of the run
    for folder in ("cat", "barn owl"):
        shutil.rmtree(more / folder)
    runs = [shutil.copytree(finished_run, tmp_path / name) for name in ("one", "other")]
    for file in (more / "fox").iterdir():  # other images than the run's
        file.write_bytes(file.read_bytes() + b"\0")
    added = [sz.add(runs[0], more), sz.add(runs[1], write(form, more, tmp_path / "set"))]
    assert [run.prompt.class_names for run in added] == [("barn owl", "cat", "dog", "fox")] * 2
    version = added[1].record.version
    assert version is not None
    assert (version.images, version.classes) == (12, ("fox",))
    files = files_of(photos)
    one, other = (dict(zip(files, sz.predict(run, files, top=4), strict=True)) for run in added)
    for file in files:
        assert dict(one[file].labels) == pytest.approx(dict(other[file].labels), abs=1e-4)


def test_a_run_of_a_parquet_file_reads_its_images_again(tiny_model: Path, photos: Path, tmp_path: Path) -> None:
    file = write("parquet", photos, tmp_path)
    clip = sz.load(tiny_model)
    run = sz.tune(clip, file, sz.TuneConfig(shots=4, views=0, steps=0), output=tmp_path / "run", report=False)
    (run.folder / LABELLED).unlink()
    added = sz.add(run, classes="fox", clip=clip)
    assert added.prompt.class_names[-1] == "fox"
    assert (run.folder / LABELLED).is_file()


def test_suggest_reads_what_is_listed_and_saves_labels_for_add(
    tiny_model: Path, photos: Path, tmp_path: Path, capsys: Capture
) -> None:
    file = write("parquet", photos, tmp_path / "set")
    config = sz.TuneConfig(shots=4, views=0, steps=0)
    run = sz.tune(sz.load(tiny_model), file, config, output=tmp_path / "run", report=False)
    found = sz.suggest(run, file, 5)
    assert found.images == 36 - len(run.record.images.labelled())
    assert {str(one.path).partition("#")[0] for one in found.items} == {str(file)}
    assert found.listed
    assert not sz.suggest(run, photos, 5, recursive=True).listed
    capsys.readouterr()
    assert command(["suggest", str(run.folder), str(file), "--page", str(tmp_path / "p.html")]) == 0
    assert "it saves labels for `add`" in capsys.readouterr().out
    assert "sharpzo-mlx add RUN labels.csv" in (tmp_path / "p.html").read_text()
    new = [(path.read_bytes() + b"\0", None) for path in files_of(photos)]
    found = sz.suggest(run, write_parquet(tmp_path / "new.parquet", new), 5)
    with (tmp_path / "labels.csv").open("w") as table:  # as the page writes it
        csv.writer(table).writerows([("path", "label"), *((str(one.path), "fox") for one in found.items)])
    version = sz.add(run, tmp_path / "labels.csv").record.version
    assert version is not None
    assert (version.images, version.classes) == (len(found.items), ("fox",))


@pytest.mark.parametrize("form", FORMS)
def test_sort_says_that_it_moves_files_only(
    form: str, finished_run: Path, photos: Path, tmp_path: Path, refused: Refused
) -> None:
    file = write(form, photos, tmp_path / "set")
    for place in (file, file.parent) if form != "csv" else (file,):
        line = refused("sort", finished_run, place, "--into", tmp_path / "sorted")
        assert line.startswith(f"error: {file}: lists or stores images, and `sort` moves files;")
    with pytest.raises(sz.UserError, match="`sort` moves files"):
        sz.sort_plan(finished_run, file, tmp_path / "sorted")


def test_a_plan_with_stored_images_is_refused(
    finished_run: Path, photos: Path, tmp_path: Path, refused: Refused
) -> None:
    write("parquet", photos, tmp_path)
    plan = {"format": "sharpzo-mlx plan 1", "folder": str(tmp_path), "labels": [{"path": "a.parquet#3", "label": "x"}]}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    line = refused("sort", "--plan", tmp_path / "plan.json", "--into", tmp_path / "sorted")
    assert "a.parquet#3 is inside a file" in line
