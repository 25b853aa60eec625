"""Images inside Parquet and tar files pass through workers, which see the file or are sent its images."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from cluster_workers import same, two_workers
from comparison_runs import CONFIG
from listed_data import interleaved, write_parquet, write_tar

import sharpzo_mlx as sz
from sharpzo_mlx.cluster.leader import Leader
from sharpzo_mlx.datasets.image_set import ImageSet
from sharpzo_mlx.datasets.listed import read_listed
from sharpzo_mlx.features import pieces
from sharpzo_mlx.features.blocks import Batching
from sharpzo_mlx.features.cache import digest
from sharpzo_mlx.features.extract import encode
from sharpzo_mlx.features.pieces import FilePiece, encode_piece
from sharpzo_mlx.images.stored import open_stored
from sharpzo_mlx.runtime.helpers import helped_by

HERE = Path("/proc/self/cwd")  # another folder in every process
KINDS = ("parquet", "tar")
BROKEN = 5  # the image that is cut off


@pytest.fixture(scope="module")
def leader() -> Iterator[Leader]:
    """Two workers for all tests of this file."""
    with two_workers() as found:
        yield found


def write(kind: str, photos: Path, folder: Path) -> Path:
    """Write the photos into one file of a kind, one of them cut off."""
    found = [(file.read_bytes(), label) for file, label in interleaved(photos)]
    found[BROKEN] = (found[BROKEN][0][:60], found[BROKEN][1])
    if kind == "parquet":
        return write_parquet(folder / "train-0.parquet", found, row_group_size=8)
    members = []
    for number, (content, label) in enumerate(found):
        members += [(f"in/{number:03}.png", content), (f"in/{number:03}.cls", label.encode())]
    return write_tar(folder / "train-0.tar", members)


def listed(place: Path) -> ImageSet:
    """The images of one undivided set."""
    (images,) = (read_listed(place) or {}).values()
    return images


def check_encoding(
    images: ImageSet, model: Path, leader: Leader, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encode images alone and, with another cache, with workers: the same bits, and the one broken image is skipped."""
    clip = sz.load(model)
    alone = encode(clip, images)
    monkeypatch.setenv("SHARPZO_MLX_CACHE", str(folder / "empty"))
    with helped_by(leader):
        helped = encode(clip, images)
    assert same(alone, helped)
    assert len(alone.skipped) == 1


@pytest.fixture
def contents_sent(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The images whose content was read to be sent to a worker."""
    sent: list[Path] = []

    def note(path: Path) -> BinaryIO:
        sent.append(path)
        return open_stored(path)

    monkeypatch.setattr(pieces, "open_stored", note)
    return sent


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_workers_see(
    kind: str,
    leader: Leader,
    tiny_model: Path,
    photos: Path,
    tmp_path: Path,
    contents_sent: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_encoding(listed(write(kind, photos, tmp_path)), tiny_model, leader, tmp_path, monkeypatch)
    assert contents_sent == []


@pytest.mark.skipif(not HERE.exists(), reason="only Linux has such a name")
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_workers_do_not_see(
    kind: str,
    leader: Leader,
    tiny_model: Path,
    photos: Path,
    tmp_path: Path,
    contents_sent: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = write(kind, photos, tmp_path)
    monkeypatch.chdir(tmp_path)
    images = listed(HERE / file.name)
    check_encoding(images, tiny_model, leader, tmp_path, monkeypatch)
    assert sorted(contents_sent) == sorted(images.paths)  # each once


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_on_a_file_is_the_same(
    kind: str, leader: Leader, tiny_model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tuning, with its views, then evaluation."""
    file = write(kind, photos, tmp_path / "set")
    config = sz.TuneConfig(shots=4, steps=2, generations=1).with_settings({"space.dimension": 8})

    def tuned(name: str) -> sz.Run:
        monkeypatch.setenv("SHARPZO_MLX_CACHE", str(tmp_path / f"cache-{name}"))
        return sz.tune(sz.load(tiny_model), file, config, output=tmp_path / name, report=False)

    alone = tuned("alone")
    report = sz.evaluate(alone.folder, file)
    with helped_by(leader):
        helped = tuned("helped")
        assert sz.evaluate(helped.folder, file).folders[0].tuned_metrics == report.folders[0].tuned_metrics
    assert (helped.folder / "prompt.safetensors").read_bytes() == (alone.folder / "prompt.safetensors").read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_method_that_reads_images_again_runs_on_a_worker_that_sees_the_file(
    kind: str, leader: Leader, tiny_model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(kind, photos, tmp_path / "set")

    def compared(name: str) -> tuple[float | None, float | None]:
        found = sz.compare(sz.load(tiny_model), file, CONFIG, methods="blackvip", seeds=1, output=tmp_path / name)
        measured = found.datasets[0].results[0].measurements
        assert measured is not None
        return measured.test, measured.val_loss

    alone = compared("alone")
    monkeypatch.setattr("sharpzo_mlx.comparison.dataset_runner.measure_method", None)  # not here
    with helped_by(leader):
        assert compared("helped") == alone


def piece_of(images: ImageSet, count: int = 6) -> FilePiece:
    """The first images as a piece that has no contents."""
    paths = [os.fsencode(path) for path in images.paths[:count]]
    digests = [digest(path) for path in images.paths[:count]]
    return FilePiece(paths, digests, Batching([0] * count, count, count), [])


def put_another(kind: str, photos: Path, file: Path) -> None:
    """Replace a file by one of the same kind with other images."""
    other = file.parent / "photos"
    shutil.copytree(photos, other)
    names = [name for name, _ in interleaved(other)]
    names[0].write_bytes(names[1].read_bytes())
    shutil.copy(write(kind, other, file.parent / "other"), file)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("state", ["another", "damaged", "gone", "a folder"])
def test_another_file_at_that_place_is_not_taken(
    kind: str, state: str, tiny_model: Path, photos: Path, tmp_path: Path
) -> None:
    file = write(kind, photos, tmp_path)
    piece, clip = piece_of(listed(file)), sz.load(tiny_model)
    assert encode_piece(clip, piece).seen
    if state == "another":
        put_another(kind, photos, file)
    elif state == "damaged":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 9])
    else:
        file.unlink()
        if state == "a folder":
            file.mkdir()
    found = encode_piece(clip, piece)
    assert (found.seen, found.positions) == (False, [])


def test_a_worker_without_the_package_for_parquet_is_sent_the_images(
    tiny_model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, clip = listed(write("parquet", photos, tmp_path)), sz.load(tiny_model)
    piece = piece_of(images)
    seen = encode_piece(clip, piece)
    contents = [open_stored(path).read() for path in images.paths[:6]]

    def fail(*_: object) -> bytes:
        raise sz.UserError("Parquet files are read by another package")

    monkeypatch.setattr("sharpzo_mlx.images.stored.read_row", fail)
    assert not encode_piece(clip, piece).seen
    sent = encode_piece(clip, replace(piece, contents=contents))
    np.testing.assert_array_equal(sent.rows, seen.rows)
    assert (sent.positions, sent.failed) == (seen.positions, seen.failed)
