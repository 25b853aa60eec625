"""An exported ONNX graph, run by onnxruntime, answers as this program does, for every kind of image tower."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from exported_runs import KINDS, PICTURES, draw_pictures, tune, write_model
from head_answers import distances, head_of, paint_strangers

import sharpzo_mlx as sz
from sharpzo_mlx.convert import Quantisation, convert
from sharpzo_mlx.exporting import onnx_model
from sharpzo_mlx.heads.answers import Answers
from sharpzo_mlx.heads.head import Head

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

Answer = dict[str, np.ndarray]
GUIDE = Path(__file__).resolve().parents[1] / "docs" / "guide" / "export.md"


def run_graph(path: Path, given: np.ndarray) -> Answer:
    """What a file says of pictures or features, by the names of its outputs."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: given}), strict=True))


def answers(run: sz.Run, pictures: np.ndarray, rate: float = 0.05) -> Answer:
    """What this program says of them."""
    features = sz.load(run.model_folder).encode_pixels(pictures)
    found = {"probabilities": np.array(mx.softmax(run.prompt.logits(features), axis=-1))}
    found["label"] = found["probabilities"].argmax(axis=1)
    if isinstance(head := run.prompt.head, Head):
        far = np.array(head.guard.distances(features))
        found |= {"distance": far, "farthest": np.array(Answers(head, rate).farthest)}
        found["rejected"] = far > found["farthest"]
    return found


def assert_equal(found: Answer, expected: Answer, tolerance: float) -> None:
    """Equal but for rounding: where two classes, or a distance and its limit, are as near as that, either may win."""
    assert np.abs(found["probabilities"] - expected["probabilities"]).max() < tolerance
    best = np.sort(expected["probabilities"], axis=1)[:, -2:]
    clear = best[:, 1] - best[:, 0] > 2 * tolerance
    assert clear.mean() > 0.9
    assert (found["label"] == expected["label"])[clear].all()
    if "farthest" in expected:
        far, limit = expected["distance"], expected["farthest"]
        clear = np.abs(far / limit - 1) > tolerance
        assert clear.mean() > 0.9
        assert (found["rejected"] == expected["rejected"])[clear].all()


@pytest.fixture(scope="module", params=KINDS)
def run(
    request: pytest.FixtureRequest, photos: Path, tiny_tokenizer: str, tmp_path_factory: pytest.TempPathFactory
) -> sz.Run:
    folder = tmp_path_factory.mktemp("exported")
    return tune(write_model(folder / "m", request.param, tiny_tokenizer), photos, folder / "run")


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("float16", 1e-2)])
def test_graph_answers_as_predict(run: sz.Run, tmp_path: Path, dtype: str, tolerance: float) -> None:
    report = sz.export(run, "onnx", tmp_path / "x.onnx", options=sz.ExportOptions(dtype=dtype))
    onnx.checker.check_model(str(report.path), full_check=True)
    pictures = draw_pictures(run)
    found, expected = run_graph(report.path, pictures), answers(run, pictures)
    assert len(found["label"]) == PICTURES
    assert_equal(found, expected, tolerance)
    assert found["name"].tolist() == [run.prompt.class_names[label] for label in found["label"]]
    assert report.checked is not None
    assert report.checked.images == 8
    assert report.checked.difference < tolerance
    assert np.ptp(expected["probabilities"], axis=0).max() > 0.1  # the pictures do differ


def test_any_number_of_pictures(run: sz.Run, tmp_path: Path) -> None:
    path = sz.export(run, "onnx", tmp_path / "x.onnx").path
    pictures = draw_pictures(run)[:7]
    one = [run_graph(path, picture[None])["probabilities"][0] for picture in pictures]
    np.testing.assert_allclose(run_graph(path, pictures)["probabilities"], one, atol=1e-5)


@pytest.fixture(scope="module")
def words_alone(tiny_model: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> sz.Run:
    return tune(tiny_model, photos, tmp_path_factory.mktemp("words") / "run", head="none")


def test_words_alone_turn_nothing_away(words_alone: sz.Run, tmp_path: Path) -> None:
    path = sz.export(words_alone, "onnx", tmp_path / "x.onnx").path
    pictures = draw_pictures(words_alone)
    found = run_graph(path, pictures)
    assert set(found) == {"label", "name", "probabilities"}
    assert_equal(found, answers(words_alone, pictures), 1e-4)
    with pytest.raises(sz.UserError, match=r"--reject needs a head"):
        sz.export(words_alone, "onnx", tmp_path / "y.onnx", options=sz.ExportOptions(reject=0.1))


def test_rejections_at_a_stated_rate(finished_run: Path, tmp_path: Path) -> None:
    """Strangers are turned away by the graph where `predict` turns them away, and more of them at a higher rate."""
    run = sz.Run.load(finished_run)
    strangers = [path for path in paint_strangers(tmp_path / "strangers").rglob("*.png") if path.name != "broken.png"]
    known = [Path(run.record.dataset) / relative for relative, _ in run.record.images.train]
    features = np.array(sz.load(run.model_folder).encode_images([*strangers, *known]))
    counts = []
    for number, rate in enumerate((0.1, 0.9)):
        options = sz.ExportOptions(head_only=True, reject=rate)
        found = run_graph(sz.export(run, "onnx", tmp_path / f"{number}.onnx", options=options).path, 3 * features)
        predicted = sz.predict(run, [*strangers, *known], top=3, reject=rate)
        assert found["rejected"].tolist() == [one.rejected for one in predicted]
        assert found["name"].tolist() == [one.labels[0][0] for one in predicted]
        counts.append(int(found["rejected"].sum()))
    assert 0 < counts[0] < counts[1]
    assert distances(run, strangers).min() > head_of(run).guard.centre


def test_floats_channels_first(finished_run: Path, tmp_path: Path) -> None:
    run = sz.Run.load(finished_run)
    path = sz.export(run, "onnx", tmp_path / "x.onnx", options=sz.ExportOptions(pixels="float")).path
    pictures = draw_pictures(run)
    found = run_graph(path, (pictures.transpose(0, 3, 1, 2) / 255).astype(np.float32))
    assert_equal(found, answers(run, pictures), 1e-4)


def test_quantised_towers(tiny_model: Path, photos: Path, tmp_path: Path) -> None:
    convert(str(tiny_model), tmp_path / "q", quantise=Quantisation(8, 32, True))
    run = tune(tmp_path / "q", photos, tmp_path / "run")
    pictures = draw_pictures(run)
    found = run_graph(sz.export(run, "onnx", tmp_path / "x.onnx").path, pictures)
    assert_equal(found, answers(run, pictures), 1e-4)


def test_large_weights_lie_beside_the_graph(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_model, "MOST_INSIDE", 10_000)
    run, folder = sz.Run.load(finished_run), tmp_path / "out"
    report = sz.export(run, "onnx", folder / "x.onnx")
    assert [name for name, _ in report.files] == ["x.onnx", "x.onnx.data"]
    assert sorted(path.name for path in folder.iterdir()) == ["x.onnx", "x.onnx.data"]
    assert (folder / "x.onnx").stat().st_size < (folder / "x.onnx.data").stat().st_size
    onnx.checker.check_model(str(report.path), full_check=True)
    pictures = draw_pictures(run)
    assert_equal(run_graph(report.path, pictures), answers(run, pictures), 1e-4)


def test_half_the_bytes(finished_run: Path, tmp_path: Path) -> None:
    whole, half = (
        sz.export(finished_run, "onnx", tmp_path / dtype, options=sz.ExportOptions(dtype=dtype)).files[0][1]
        for dtype in ("float32", "float16")
    )
    assert half < 0.75 * whole


def test_metadata_says_what_the_graph_is(finished_run: Path, tmp_path: Path) -> None:
    run = sz.Run.load(finished_run)
    model = onnx.load(str(sz.export(run, "onnx", tmp_path / "x.onnx").path))
    about = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert about["names"] == list(run.prompt.class_names)
    assert about["model"]["fingerprint"] == run.record.model.fingerprint
    assert about["preprocessing"]["size"] == [16, 16]
    assert about["input"] == "uint8 NHWC"
    assert str(tmp_path) not in str(about)
    assert str(run.model_folder) not in str(about)


def test_without_onnxruntime_nothing_is_compared(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from importlib import util

    found = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name, *rest: None if name == "onnxruntime" else found(name, *rest))
    with caplog.at_level(logging.WARNING, "sharpzo_mlx"):
        assert sz.export(finished_run, "onnx", tmp_path / "x.onnx").checked is None
    assert any("not compared" in line for line in caplog.messages)
    assert (tmp_path / "x.onnx").is_file()


def test_python_of_the_guide_answers_as_predict(finished_run: Path, photos: Path, tmp_path: Path) -> None:
    run, image = sz.Run.load(finished_run), photos / "dog" / "3.png"
    path = sz.export(run, "onnx", tmp_path / "x.onnx").path
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    (snippet,) = [block for block in blocks if "InferenceSession" in block]
    for written, here in (("224", "16"), ("new.jpg", str(image)), ("pets.onnx", str(path))):
        assert written in snippet
        snippet = snippet.replace(written, here)
    names: dict[str, Any] = {}
    exec(compile(snippet, "guide", "exec"), names)
    (expected,) = sz.predict(run, image, top=3, reject=0.05)
    found = dict(zip(run.prompt.class_names, names["probabilities"][0].tolist(), strict=True))
    assert found == pytest.approx(dict(expected.labels), abs=1e-5)
    assert (names["name"][0], bool(names["rejected"][0])) == (expected.labels[0][0], expected.rejected)


def test_the_benchmark_counts_what_differs(
    finished_run: Path, words_alone: sz.Run, photos: Path, load_benchmark: Callable[[str], ModuleType]
) -> None:
    script = load_benchmark("export_answers")
    images = script.choose([photos / "cat", photos / "dog"], 9)
    assert [path.parent.name for path in images] == ["cat"] * 4 + ["dog"] * 4
    for one in (sz.Run.load(finished_run), words_alone):
        found = script.compare(one, images)
        assert found["images"] == 8
        assert (found["other labels"], found["other rejections"]) == (0, 0)
        assert 0 <= found["difference"] < 1e-4
