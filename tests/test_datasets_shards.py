"""Images in WebDataset's tar files: labels of every kind, reading in place, and hostile members that do nothing."""

from __future__ import annotations

import io
import os
import random
import tarfile
from contextlib import suppress
from pathlib import Path

import pytest
from listed_data import interleaved, write_parquet, write_tar

import sharpzo_mlx as sz
from sharpzo_mlx.datasets.folder import read_folder
from sharpzo_mlx.datasets.listed import read_listed
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.images.decode import ImageError, open_image
from sharpzo_mlx.images.tar_members import read_member

CONFIG = sz.TuneConfig(shots=3, generations=2, steps=3).with_settings({"space.dimension": 8, "stage1.population": 6})


def listed(place: Path) -> dict[str, str]:
    """The names of the images of an undivided set, with their labels."""
    sets = read_listed(place)
    assert sets is not None
    (images,) = sets.values()
    return {
        str(path).removeprefix(f"{place if place.is_dir() else place.parent}/"): images.folders[label]
        for path, label in zip(images.paths, images.labels, strict=True)
    }


def test_labels_of_every_kind(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_tar(
        tmp_path / "set" / "birds-000.tar",
        [
            ("a/0001.jpg", b"1"), ("a/0001.cls", b"3\n"),
            ("a/0002.txt", "Zaunk\u00f6nig".encode()), ("a/0002.png", b"2"),
            ("a/0003.seg.png", b"3"), ("a/0003.json", b'{"id": 1, "label": "wren"}'),
            ("a/0004.jpg", b"4"),
            ("a/0005.jpg", b"5"), ("a/0005.json", b"{"), ("a/0006.mp4", b"6"), ("a/0006.cls", b"1"),
            ("./b/0001.jpg", b"7"), ("./b/0001.cls", b"10"),
        ],
    )  # fmt: skip
    assert listed(tmp_path / "set") == {
        "birds-000.tar#a/0001.jpg": "3",
        "birds-000.tar#b/0001.jpg": "10",
        "birds-000.tar#a/0002.png": "Zaunk\u00f6nig",
        "birds-000.tar#a/0003.seg.png": "wren",
    }
    assert "2 images without a label" in caplog.text
    assert read_member(tmp_path / "set" / "birds-000.tar", "b/0001.jpg") == b"7"


def test_shards_are_tuned_in_place(photos: Path, tiny_model: Path, tmp_path: Path) -> None:
    found = interleaved(photos)
    for name, part in (("train-0", found[:14]), ("train-1", found[14:27]), ("val-0", found[27:])):
        members = []
        for place, (file, label) in enumerate(part):
            members += [(f"{place:04}.png", file.read_bytes()), (f"{place:04}.cls", label.encode())]
        write_tar(tmp_path / "set" / f"photos-{name}.tar", members)
    before = sorted(tmp_path.rglob("*"))
    clip = sz.load(tiny_model)
    run = sz.tune(clip, tmp_path / "set", CONFIG, output=tmp_path / "run")
    assert run.results.test is not None
    assert [path for path in sorted(tmp_path.rglob("*")) if "run" not in path.parts] == [*before]
    (result,) = sz.evaluate(run, [tmp_path / "set"]).folders
    assert (result.images, result.tuned) == (9, run.results.test)
    assert ".tar#" in sz.write_report(run, landscape=False).read_text()


def hostile(file: Path, secret: Path) -> Path:
    with tarfile.open(file, "w") as tar:
        for name in (
            "../up.jpg",
            "/etc/abs.jpg",
            "a/../../b.jpg",
            "new\nline.jpg",
            "ok.jpg",
            "ok.cls",
            "big.jpg",
            "big.cls",
        ):
            info = tarfile.TarInfo(name)
            data = b"cat" if name.endswith(".cls") else b"x" * 10
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
            for ending in (".cls",) if name.endswith("line.jpg") or ".." in name or name[0] == "/" else ():
                label = tarfile.TarInfo(name.replace(".jpg", ending))
                label.size = 3
                tar.addfile(label, io.BytesIO(b"dog"))
        for name, kind in (
            ("l.jpg", tarfile.SYMTYPE),
            ("h.jpg", tarfile.LNKTYPE),
            ("p.jpg", tarfile.FIFOTYPE),
            ("d.jpg", tarfile.CHRTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, str(secret)
            tar.addfile(info)
            label = tarfile.TarInfo(name.replace(".jpg", ".cls"))
            label.size = 3
            tar.addfile(label, io.BytesIO(b"dog"))
    return file


def test_hostile_members_do_nothing(photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = hostile(tmp_path / "set.tar", photos / "cat" / "1.png")
    before = sorted(tmp_path.rglob("*"))
    assert listed(file) == {"set.tar#ok.jpg": "cat", "set.tar#big.jpg": "cat"}
    assert "links and other members that are no files" in caplog.text
    assert "members with odd names" in caplog.text
    for name in ("l.jpg", "../up.jpg", "h.jpg", "absent.jpg"):
        with pytest.raises(ImageError):
            open_image(Path(f"{file}#{name}"))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("size", [10**9, 2**62])
@pytest.mark.parametrize("whole", [True, False])
def test_a_huge_member_is_passed_over_or_is_one_line(
    size: int, whole: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = b""
    for name in ("a.jpg", "a.cls"):
        info = tarfile.TarInfo(name)
        info.size = 3
        data += info.tobuf() + b"cat" + bytes(509)
    info = tarfile.TarInfo("huge.jpg")
    info.size = size
    file = tmp_path / "x.tar"
    file.write_bytes(data + info.tobuf(tarfile.GNU_FORMAT))
    if whole and size < 1 << 40:
        os.truncate(file, file.stat().st_size + size + 10_240)  # takes no room on the disk
        assert listed(file) == {"x.tar#a.jpg": "cat"}
        assert "1 members larger than any image, or cut off" in caplog.text
    else:
        with pytest.raises(UserError, match=r"x\.tar: no tar file that can be read \((it is cut off|unexpected end)"):
            read_listed(file)


def test_a_long_header_is_refused_before_it_is_read(tmp_path: Path) -> None:
    info = tarfile.TarInfo("long")
    info.type, info.size = tarfile.XHDTYPE, 1 << 40
    (tmp_path / "x.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(UserError, match="a header that is too long"):
        read_listed(tmp_path / "x.tar")


def test_damaged_and_compressed_files_are_one_line(photos: Path, tmp_path: Path) -> None:
    for name, data in (("a.tar", b"no tar" * 500), ("empty.tar", b"")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=name):
            read_listed(tmp_path / name)
    with tarfile.open(tmp_path / "z.tar", "w:gz") as tar:
        tar.add(photos / "cat" / "1.png", "1.png")
    with pytest.raises(UserError, match="give uncompressed tar files"):
        read_listed(tmp_path / "z.tar")
    os.mkfifo(tmp_path / "pipe.tar")
    with pytest.raises(UserError):
        read_folder(tmp_path / "pipe.tar")


def test_random_damage_never_gets_through(photos: Path, tmp_path: Path) -> None:
    members = [
        (f"{place}.{ending}", data)
        for place in range(6)
        for ending, data in (("png", (photos / "cat" / "1.png").read_bytes()), ("cls", b"cat"))
    ]
    whole = write_tar(tmp_path / "whole.tar", members).read_bytes()
    dice = random.Random(2)
    for trial in range(80):
        damaged = bytearray(whole)
        for _ in range(8):
            damaged[dice.randrange(len(whole)) if trial % 2 else 2048 * dice.randrange(6) + dice.randrange(512)] = (
                dice.randrange(256)
            )
        file = tmp_path / f"{trial}.tar"
        file.write_bytes(damaged[: dice.randrange(512, len(whole))] if trial % 5 == 0 else damaged)
        with suppress(UserError):  # anything else fails the test
            for images in (read_listed(file) or {}).values():
                for path in images.paths:
                    with suppress(ImageError):
                        open_image(path)


def test_a_download_beside_class_folders_is_not_the_data_set(photos: Path, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).symlink_to(photos / name)
    write_tar(tmp_path / "download.tar", [("1.jpg", b"x"), ("1.cls", b"cat")])
    write_parquet(tmp_path / "table.parquet", [(b"x", "cat")])
    assert read_folder(tmp_path).counts() == [12, 12]
