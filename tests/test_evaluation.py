"""Evaluating and predicting with a run: numbers equal a few lines of NumPy, and folders that do not fit are named."""

from __future__ import annotations

import gc
import shutil
import signal
import subprocess
import sys
import weakref
from collections.abc import Generator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from plain_logits import classify

import sharpzo_mlx as sz
from sharpzo_mlx.cli import main
from sharpzo_mlx.evaluation import folders
from sharpzo_mlx.evaluation.folders import evaluate_steps
from sharpzo_mlx.evaluation.reports import EVALUATIONS, FolderResult, read_evaluations
from sharpzo_mlx.features.extract import EncodeProgress, Features, encode_steps
from sharpzo_mlx.tuning.pipeline import tune


@pytest.fixture(scope="module")
def run(tiny_model: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> sz.Run:
    config = sz.TuneConfig(shots=4, generations=20, steps=0).with_settings(
        {"space.dimension": 16, "stage1.population": 6, "space.relative_scale": 20.0}
    )
    return tune(sz.load(tiny_model), photos, config, output=tmp_path_factory.mktemp("runs") / "run")


def expected(run: sz.Run, folder: Path, classes: list[str]) -> tuple[float, float]:
    paths = [path for name in classes for path in sorted((folder / name).iterdir())]
    labels = np.array([run.prompt.folders.index(path.parent.name) for path in paths])
    features = np.array(sz.load(run.model_folder).encode_images(paths))
    zero, tuned = (
        float(np.mean(classify(run.folder, features, tuned=own).argmax(axis=1) == labels)) for own in (False, True)
    )
    return zero, tuned


def test_accuracies_of_folders_and_their_means(run: sz.Run, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos / "dog", tmp_path / "subset" / "dog")
    shutil.copytree(photos / "cat", tmp_path / "subset" / "cat")
    report = sz.evaluate(run.folder, [photos, tmp_path / "subset"])
    wanted = [expected(run, photos, ["barn owl", "cat", "dog"]), expected(run, tmp_path / "subset", ["cat", "dog"])]
    assert [(f.zero_shot, f.tuned) for f in report.folders] == [pytest.approx(pair) for pair in wanted]
    assert [f.images for f in report.folders] == [36, 24]
    assert report.tuned == pytest.approx(np.mean([tuned for _, tuned in wanted]))
    assert report.zero_shot == pytest.approx(np.mean([zero for zero, _ in wanted]))


def test_images_that_the_run_has_seen_are_counted_and_said(
    run: sz.Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    drawn = {split: [photos / path for path, _ in rows] for split, rows in run.record.images.by_split().items()}
    for path in drawn["test"]:
        link = tmp_path / "test" / path.parent.name / path.name
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, link)
    (tmp_path / "link").symlink_to(photos)
    monkeypatch.setattr(folders, "CHUNK", 7)
    report = sz.evaluate(run, [photos, tmp_path / "test", tmp_path / "link"])
    seen = len(drawn["train"]) + len(drawn["val"])
    assert [folder.seen for folder in report.folders] == [seen, 0, seen]
    assert [folder.to_entry().seen for folder in report.folders] == [seen, 0, seen]
    said = [record.message for record in caplog.records]
    assert len(said) == 2
    assert said[0].startswith(f"{photos}: {run.folder} was trained or validated on {seen} of these 36 images")


def test_unknown_classes_are_named_before_anything_is_encoded(run: sz.Run, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "more")
    shutil.copytree(photos / "cat", tmp_path / "more" / "zebra")
    events = evaluate_steps(run, [photos, tmp_path / "more"])
    with pytest.raises(sz.UserError, match="zebra"):
        next(events)


def test_unreadable_images_are_skipped_and_counted(
    run: sz.Run, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(photos, tmp_path / "broken")
    (tmp_path / "broken" / "cat" / "0.png").write_bytes(b"no")
    result = sz.evaluate(run, [tmp_path / "broken"]).folders[0]
    assert isinstance(result, FolderResult)
    assert (result.images, result.unreadable) == (35, 1)
    assert "1 unreadable image is skipped: " in caplog.text


def test_a_chunk_without_a_readable_image_is_only_skipped(
    run: sz.Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is unreadable is said once for the whole folder, however it is cut into chunks."""
    monkeypatch.setattr(folders, "CHUNK", 5)
    shutil.copytree(photos, tmp_path / "broken")
    files = sorted((tmp_path / "broken").glob("*/*.png"))
    for path in files[:11]:  # two chunks and a little of the third; the first class keeps one image
        path.write_bytes(b"no")
    result = sz.evaluate(run, [tmp_path / "broken"]).folders[0]
    assert (result.images, result.unreadable) == (25, 11)
    assert [record.message.split(":")[0] for record in caplog.records] == ["11 unreadable images are skipped"]
    for path in files:
        path.write_bytes(b"no")
    with pytest.raises(sz.UserError, match="none of 36 images"):
        sz.evaluate(run, [tmp_path / "broken"])


def test_of_many_images_only_one_chunk_is_in_memory(run: sz.Run, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Embeddings of a chunk are gone when those of the next are made; the figures stay what they are."""
    whole = sz.evaluate(run, photos).folders[0]
    alive: list[weakref.ref[Features]] = []
    most = 0

    def watched(*given: Any, **options: Any) -> Generator[EncodeProgress, None, Features]:
        nonlocal most
        features = yield from encode_steps(*given, **options)
        assert len(features.labels) <= 5
        alive.append(weakref.ref(features))
        gc.collect()
        most = max(most, sum(found() is not None for found in alive))
        return features

    monkeypatch.setattr(folders, "CHUNK", 5)
    monkeypatch.setattr(folders, "encode_steps", watched)
    in_chunks = sz.evaluate(run, photos).folders[0].to_entry().to_json()
    for name, value in whole.to_entry().to_json().items():  # a probability's last bits depend on the size of its batch
        assert in_chunks[name] == (pytest.approx(value, abs=1e-6) if isinstance(value, float) else value), name
    assert len(alive) == 8  # 36 images
    assert most == 1


KILLED_HALF_WAY = """
import os, signal, sys
from sharpzo_mlx.evaluation.folders import FolderProgress, evaluate_steps
from sharpzo_mlx.tuning.pipeline import tune
for event in evaluate_steps(sys.argv[1], sys.argv[2]):
    if isinstance(event, FolderProgress) and event.done == 32:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_after_a_kill_only_the_rest_is_encoded(
    run: sz.Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = sz.evaluate(run, photos).folders[0]
    monkeypatch.setenv("SHARPZO_MLX_CACHE", str(tmp_path))
    done = subprocess.run([sys.executable, "-c", KILLED_HALF_WAY, str(run.folder), str(photos)])
    assert done.returncode == -signal.SIGKILL
    encoded = []
    encode_pixels = sz.Clip.encode_pixels

    def counted(self: sz.Clip, pixels: np.ndarray) -> mx.array:
        encoded.append(len(pixels))
        return encode_pixels(self, pixels)

    monkeypatch.setattr(sz.Clip, "encode_pixels", counted)
    again = sz.evaluate(run, photos).folders[0]
    assert encoded == [4]  # of 36: a batch of 32 had been encoded when it was killed
    assert (again.images, again.zero_shot, again.tuned) == (whole.images, whole.zero_shot, whole.tuned)


def test_predictions_are_the_softmax_of_the_classifier(run: sz.Run, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "no.jpg").write_bytes(b"no")
    paths = [photos / "cat" / "1.png", tmp_path / "no.jpg", photos / "dog" / "2.png"]
    first, broken, last = sz.predict(run, paths, top=2)
    assert broken.error
    assert broken.labels == ()
    for prediction in (first, last):
        (logits,) = classify(run.folder, np.array(sz.load(run.model_folder).encode_images([prediction.path])))
        probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        order = np.argsort(-probabilities)[:2]
        np.testing.assert_allclose([p for _, p in prediction.labels], probabilities[order], rtol=1e-3, atol=1e-6)
        named = [probabilities[run.prompt.class_names.index(name)] for name, _ in prediction.labels]
        np.testing.assert_allclose(named, probabilities[order], atol=1e-6)
        assert prediction.labels[0][0] == run.prompt.class_names[order[0]]
    assert len(sz.predict(run, paths[:1], top=99)[0].labels) == 3


def test_what_cannot_be_asked(run: sz.Run, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(sz.UserError, match="no folder"):
        sz.evaluate(run, [])
    with pytest.raises(sz.UserError, match="no image"):
        sz.predict(run, [])
    with pytest.raises(sz.UserError, match="at least 1"):
        sz.predict(run, ["a.png"], top=0)
    for empty in (
        lambda: sz.evaluate(run, ""),
        lambda: sz.predict(run, ["a.png", ""]),
        lambda: sz.evaluate("", tmp_path),
        lambda: tune(sz.load(run.model_folder), ""),
        lambda: sz.compare(sz.load(run.model_folder), [tmp_path, ""]),
    ):
        with pytest.raises(sz.UserError, match="an empty path"):
            empty()
    with pytest.raises(sz.UserError, match="no run here"):
        sz.evaluate(tmp_path, [tmp_path])


def test_python_and_the_command_leave_the_same_files(
    run: sz.Run, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The entry of a folder that is measured again is replaced, and of every folder there is one."""
    shutil.copytree(photos / "dog", tmp_path / "shifted" / "dog")
    (run.folder / EVALUATIONS).unlink(missing_ok=True)
    python, command = (shutil.copytree(run.folder, tmp_path / name) for name in ("python", "command"))
    for place in ([photos], [photos, tmp_path / "shifted"]):
        sz.evaluate(python, place, clip=sz.load(run.model_folder))
        assert main.run(["evaluate", str(command), *map(str, place)]) == 0
    capsys.readouterr()
    files = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in (python, command)]
    assert files[0] == files[1]
    entries = read_evaluations(sz.Run.load(python))
    assert [entry.path for entry in entries] == [str(photos), str(tmp_path / "shifted")]
    assert entries[0] == sz.evaluate(run, photos).folders[0].to_entry()


def test_a_run_that_cannot_be_written_to_is_evaluated(
    run: sz.Run, photos: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("sharpzo_mlx.evaluation.reports.atomic_write", refuse)
    assert sz.evaluate(run, photos).folders[0].images == 36
    assert f"{run.folder}: cannot be written to (read-only file system), so `report` will not show" in caplog.text
