"""Data sets as CSV and TSV files and as Hugging Face's imagefolder: rows, quotes, splits, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from listed_data import class_files

import sharpzo_mlx as sz
from sharpzo_mlx.cli import main
from sharpzo_mlx.datasets.folder import read_folder
from sharpzo_mlx.datasets.listed import read_listed
from sharpzo_mlx.datasets.splits import draw_split
from sharpzo_mlx.errors import UserError


def read(file: Path, text: str, encoding: str = "utf-8") -> dict[str, list[tuple[str, str]]]:
    """Write a table and return its images, below its folder, and their labels by split."""
    file.write_bytes(text.encode(encoding))
    sets = read_listed(file)
    assert sets is not None
    return {
        split: [
            (
                str(path.relative_to(file.parent)) if path.is_relative_to(file.parent) else str(path),
                images.folders[label],
            )
            for path, label in zip(images.paths, images.labels, strict=True)
        ]
        for split, images in sets.items()
    }


PLAIN = {"": [("a.jpg", "cat"), ("sub/c.jpg", "cat"), ("b.jpg", "dog")]}


@pytest.mark.parametrize(
    ("name", "text", "encoding"),
    [
        ("x.csv", "path,label\na.jpg,cat\nb.jpg,dog\nsub/c.jpg,cat\n", "utf-8"),
        ("x.csv", "\ufeffpath,label\r\na.jpg,cat\r\nb.jpg,dog\r\n\r\nsub/c.jpg,cat", "utf-8"),  # a BOM, no last end
        ("x.csv", "id,Label,extra,File_Name\n1,cat,,a.jpg\n2,dog,x,b.jpg\n3,cat,,./sub/c.jpg\n", "utf-8"),
        ("x.csv", 'path,label\n"a.jpg","cat"\n"b.jpg",dog\n"sub/c.jpg", cat\n', "utf-8"),
        ("x.csv", "path;label\na.jpg;cat\nb.jpg;dog\nsub/c.jpg;cat\n", "utf-8"),
        ("x.csv", "a.jpg,cat\nb.jpg,dog\nsub/c.jpg,cat\na.jpg,cat\n", "utf-8"),  # no line of names; one image twice
        ("x.TSV", "path\tlabel\na.jpg\tcat\nb.jpg\tdog\nsub/c.jpg\tcat\n", "utf-8"),
    ],
)
def test_tables(name: str, text: str, encoding: str, tmp_path: Path) -> None:
    assert read(tmp_path / name, text, encoding) == PLAIN


def test_quotes_commas_and_splits(tmp_path: Path) -> None:
    text = 'path,label,split\n"a, b.jpg","owl, barn",train\nc.jpg,"the ""best""",Validation\nd.jpg,"owl, barn",test\n'
    assert read(tmp_path / "x.csv", text) == {
        "train": [("a, b.jpg", "owl, barn")],
        "val": [("c.jpg", 'the "best"')],
        "test": [("d.jpg", "owl, barn")],
    }


def test_paths_start_at_the_file_or_are_absolute(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    found = read(tmp_path / "lists" / "x.csv", f"path,label\n../a.jpg,cat\n{tmp_path}/b.jpg,dog\n")
    assert [path for path, _ in found[""]] == ["../a.jpg", f"{tmp_path}/b.jpg"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "no image with a label"),
        ("name,kind\na,b\n", "line 1 names no columns of images and labels; begin it with the line path,label"),
        ("path,label\na.jpg\n", "line 2 has 1 columns"),
        ("path,label\na.jpg,\n", "line 2 has no label"),
        ("path,label\n,cat\n", "line 2 has the path '', which is none"),
        ("path,label\na.jpg,cat\na.jpg,dog\n", "a.jpg has the labels 'cat' and 'dog'; keep one"),
        ("path,label,split\na.jpg,cat,holdout\n", "line 2 has the split 'holdout'; write train, val or test"),
        ("path,label,split\na.jpg,cat,train\nb.jpg,cat,\n", "some images have a split and some have none"),
        ('path,label\n"a.jpg,cat\n', "is no line of a table"),
        ("path,label\na\x00.jpg,cat\n", "line 2"),
    ],
)
def test_tables_that_cannot_be_used(text: str, match: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=match) as refused:
        read(tmp_path / "x.csv", text)
    assert str(tmp_path / "x.csv") in str(refused.value)


def test_a_table_that_is_not_utf8(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not UTF-8"):
        read(tmp_path / "x.csv", "path,label\nä.jpg,cat\n", "latin-1")


def write_metadata(folder: Path, photos: Path, kind: str) -> dict[str, int]:
    """Copy the photos into train/ and test/, with metadata in each and no class folders; return the images by split."""
    counts = {"train": 0, "test": 0}
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for place, (file, label) in enumerate(class_files(photos)):
        split = "test" if place % 4 == 3 else "train"
        (folder / split).mkdir(parents=True, exist_ok=True)
        (folder / split / f"{place}.png").write_bytes(file.read_bytes())
        record = {"file_name": f"{place}.png", "label": label, "text": "a caption, with a comma"}
        lines[split].append(json.dumps(record) if kind == "jsonl" else f'{place}.png,{label},"a caption, with a comma"')
        counts[split] += 1
    for split, found in lines.items():
        header = [] if kind == "jsonl" else ["file_name,label,text"]
        (folder / split / f"metadata.{kind}").write_text("\n".join([*header, *found]))
    return counts


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_imagefolder(kind: str, photos: Path, tmp_path: Path) -> None:
    counts = write_metadata(tmp_path / "set", photos, kind)
    sets = read_listed(tmp_path / "set")
    assert sets is not None
    assert {split: len(images) for split, images in sets.items()} == counts
    assert all(path.is_file() for images in sets.values() for path in images.paths)
    assert sets["train"].class_names == ("barn owl", "cat", "dog")
    assert len(read_folder(tmp_path / "set")) == counts["test"]
    split = draw_split(tmp_path / "set", shots=4, seed=0)
    assert split.test is not None
    assert (len(split.train), len(split.test)) == (12, counts["test"])


def test_metadata_above_the_splits(tmp_path: Path) -> None:
    (tmp_path / "metadata.jsonl").write_text(
        '{"file_name": "train/1.png", "label": 3}\n{"file_name": "test/2.png", "label": 3}\n'
    )
    sets = read_listed(tmp_path)
    assert sets is not None
    assert {split: (images.folders, [path.name for path in images.paths]) for split, images in sets.items()} == {
        "train": (("3",), ["1.png"]),
        "test": (("3",), ["2.png"]),
    }


def test_metadata_without_labels_leaves_class_folders(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).symlink_to(photos / name)
    (tmp_path / "metadata.csv").write_text("file_name,text\ncat/1.png,a cat\n")
    assert read_folder(tmp_path).counts() == [12, 12]
    assert "no column of labels" in caplog.text


@pytest.mark.parametrize("line", ["[1]", "{", '{"file_name": "a.png", "label": [1]}', '{"file_name": 3, "label": "x"}'])
def test_damaged_metadata_names_the_line(line: str, tmp_path: Path) -> None:
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "b.png", "label": "x"}\n' + line + "\n")
    with pytest.raises(UserError, match=r"metadata\.jsonl: line 2"):
        read_folder(tmp_path)


def test_a_table_is_tuned_resumed_reported_and_evaluated(
    tiny_model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Images outside of the table's folder are read, but a page that is passed on does not show them."""
    near, far = tmp_path / "set" / "near.csv", tmp_path / "lists" / "far.csv"
    for file in (near, far):
        file.parent.mkdir()
    rows = []
    for place, (file, label) in enumerate(class_files(photos)):
        (near.parent / f"{place}.png").write_bytes(file.read_bytes())
        rows.append((f"{place}.png", label, "test" if place % 3 == 2 else "train"))
    near.write_text("path,label,split\n" + "".join(f"{','.join(row)}\n" for row in rows))
    far.write_text("path,label,split\n" + "".join(f"../set/{','.join(row)}\n" for row in rows))
    results = []
    for file in (near, far):
        run = tmp_path / file.stem
        words = ["tune", str(file), "--model", str(tiny_model), "--output", str(run), "--query-budget", "60"]
        assert main.run(words) == 0
        results.append(sz.Run.load(run).results.test)
        assert main.run([*words, "--resume"]) == 0
        assert "finished already" in capsys.readouterr().err
        (report,) = sz.evaluate(run, [file]).folders
        assert (report.images, report.tuned, report.in_distribution) == (12, results[-1], True)
        assert ("data:image/jpeg" in (run / "report.html").read_text()) == (file == near)
    assert results[0] == results[1]
