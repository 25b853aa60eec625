"""An exported Core ML package, read back and carried out in NumPy, answers as this program does."""

from __future__ import annotations

import json
import logging
import re
import resource
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from importlib import util
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from exported_runs import KINDS, draw_pictures, tune, write_model
from head_answers import paint_strangers

import sharpzo_mlx as sz
from sharpzo_mlx.cli import main
from sharpzo_mlx.exporting.classifier import describe_run
from sharpzo_mlx.exporting.tower import read_tower
from sharpzo_mlx.heads.answers import Answers
from sharpzo_mlx.heads.head import Head

pytest.importorskip("coremltools")
from mil_interpreter import Package

from sharpzo_mlx.exporting import coreml_model
from sharpzo_mlx.exporting.coreml_model import name_labels, write_coreml
from sharpzo_mlx.exporting.coreml_tools import quiet

PROBS = "classLabel_probs"
PLAIN = re.compile(r"(fc1|out_proj|k_proj|visual_projection)\.weight$")
SINGLE = 11  # float32 in a program


def answers(run: sz.Run, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, float]:
    """What this program says of pictures: probabilities, distances and the limit of distances."""
    features = sz.load(run.model_folder).encode_pixels(pictures)
    probabilities = np.array(mx.softmax(run.prompt.logits(features), axis=-1))
    if not isinstance(head := run.prompt.head, Head):
        return probabilities, None, np.inf
    return probabilities, np.array(head.guard.distances(features)), Answers(head, 0.05).farthest


def assert_equal(package: Package, run: sz.Run, pictures: np.ndarray, tolerance: float) -> None:
    """Probabilities within the tolerance, distances within ten times that share of the farthest; labels and
    rejections equal where they are clear by more than that."""
    found = [package.run(picture) for picture in pictures]
    probabilities, distances, farthest = answers(run, pictures)
    names = list(run.prompt.class_names)
    for answer, row in zip(found, probabilities, strict=True):
        assert list(answer[PROBS]) == names
        np.testing.assert_allclose(list(answer[PROBS].values()), row, atol=tolerance)
        if np.diff(np.sort(row)[-2:]) > 2 * tolerance:
            assert answer["classLabel"] == names[row.argmax()]
    if distances is None:
        return
    near = min(10 * tolerance, 0.1) * farthest
    np.testing.assert_allclose(np.concatenate([answer["distance"] for answer in found]), distances, atol=near, rtol=0)
    clear = np.abs(distances - farthest) > near
    assert clear.mean() > 0.5
    assert (np.concatenate([answer["rejected"] for answer in found]) == (distances > farthest))[clear].all()


@pytest.fixture(scope="module", params=KINDS)
def run(
    request: pytest.FixtureRequest, photos: Path, tiny_tokenizer: str, tmp_path_factory: pytest.TempPathFactory
) -> sz.Run:
    folder = tmp_path_factory.mktemp("exported")
    return tune(write_model(folder / "m", request.param, tiny_tokenizer), photos, folder / "run")


@pytest.fixture(scope="module")
def packages(run: sz.Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Package]:
    folder = tmp_path_factory.mktemp("packages")
    return {
        dtype: Package(
            sz.export(run, "coreml", folder / f"{dtype}.mlpackage", options=sz.ExportOptions(dtype=dtype)).path
        )
        for dtype in ("float32", "float16")
    }


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("float16", 3e-2)])
def test_package_answers_as_predict(run: sz.Run, packages: dict[str, Package], dtype: str, tolerance: float) -> None:
    pictures = draw_pictures(run)[::10]
    assert_equal(packages[dtype], run, pictures, tolerance)
    probabilities, distances, _ = answers(run, pictures)
    assert np.ptp(probabilities, axis=0).max() > 0.1  # the pictures do differ
    assert distances is not None
    assert np.ptp(distances) > 0.5 * distances.mean()


def test_half_precision_is_in_the_tower_alone(packages: dict[str, Package]) -> None:
    package = packages["float16"]
    kinds = {one.outputs[0].name: one.outputs[0].type.tensorType.dataType for one in package.operations[:-1]}
    turned = {one.outputs[0].name for one in package.operations if one.type == "cast"}
    exact = {name for name, kind in kinds.items() if kind == SINGLE} - turned
    numbers = {name for name in kinds if name.startswith("classifier")} | {"probabilities", "distance"}
    assert exact == {name for name in numbers - turned if "greater" not in name}
    matrices = [one for name, one in package.constants.items() if name.startswith("tower") and np.size(one) >= 100]
    assert {one.dtype for one in matrices} == {np.dtype(np.float16)}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_weights_of_the_package_are_ours(run: sz.Run, packages: dict[str, Package], dtype: str) -> None:
    """Every layer that nothing is folded into is in the package as it is; the classifier in float32 always."""
    arrays = [one for one in packages[dtype].constants.values() if isinstance(one, np.ndarray)]
    stored = {(str(one.dtype), one.tobytes()) for one in arrays}
    clip = sz.load(run.model_folder)
    weights = read_tower(clip).weights.arrays
    kept = [name for name in weights if PLAIN.search(name) and weights[name].ndim == 2]
    assert kept
    assert all((dtype, weights[name].astype(dtype).tobytes()) in stored for name in kept)
    record = describe_run(run, clip)
    assert record.head is not None
    for array in (record.words, record.head.weight, np.ascontiguousarray(record.head.whitening.T)):
        assert ("float32", array.tobytes()) in stored


def test_inputs_and_outputs(finished_run: Path, tmp_path: Path) -> None:
    run = sz.Run.load(finished_run)
    package = Package(sz.export(run, "coreml", tmp_path / "x.mlpackage").path)
    about, metadata = package.spec.description, package.spec.description.metadata
    assert package.spec.specificationVersion == 8  # iOS 17, macOS 14
    (image,) = about.input
    assert (image.name, image.type.imageType.width, image.type.imageType.height) == ("image", 16, 16)
    assert image.type.imageType.colorSpace == image.type.imageType.RGB
    assert (about.predictedFeatureName, about.predictedProbabilitiesName) == ("classLabel", PROBS)
    kinds = {one.name: one.type.WhichOneof("Type") for one in about.output}
    arrays = {"distance": "multiArrayType", "rejected": "multiArrayType"}
    assert kinds == {"classLabel": "stringType", PROBS: "dictionaryType"} | arrays
    assert all(one.shortDescription for one in (*about.input, *about.output))
    assert (metadata.author, metadata.license) == ("sharpzo-mlx", "not named by the model's card")
    fields = {name: json.loads(text) for name, text in metadata.userDefined.items() if not name.startswith("com.")}
    assert fields["names"] == list(run.prompt.class_names)
    assert (fields["input"], fields["preprocessing"]["size"]) == ("image RGB", [16, 16])
    assert str(tmp_path) not in str(fields)
    assert str(run.model_folder) not in str(fields)
    files = [path for path in (tmp_path / "x.mlpackage").rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"Manifest.json", "model.mlmodel", "weight.bin"}
    assert {path.stat().st_mode & 0o777 for path in files} == {0o644}


def test_head_only_takes_features_of_any_length(finished_run: Path, tmp_path: Path) -> None:
    run = sz.Run.load(finished_run)
    strangers = [path for path in paint_strangers(tmp_path / "strangers").rglob("*.png") if path.name != "broken.png"]
    known = [Path(run.record.dataset) / relative for relative, _ in run.record.images.train]
    features = np.array(sz.load(run.model_folder).encode_images([*strangers, *known]))
    options = sz.ExportOptions(head_only=True, reject=0.3)
    package = Package(sz.export(run, "coreml", tmp_path / "x.mlpackage", options=options).path)
    assert package.spec.description.input[0].type.multiArrayType.shape == [1, features.shape[1]]
    found = [package.run(3 * feature) for feature in features]
    predicted = sz.predict(run, [*strangers, *known], top=3, reject=0.3)
    assert [bool(one["rejected"][0]) for one in found] == [one.rejected for one in predicted]
    assert [one["classLabel"] for one in found] == [one.labels[0][0] for one in predicted]
    for one, own in zip(found, predicted, strict=True):
        assert one[PROBS] == pytest.approx(dict(own.labels), abs=1e-4)
    assert {one.rejected for one in predicted} == {True, False}


def test_words_alone_turn_nothing_away(tiny_model: Path, photos: Path, tmp_path: Path) -> None:
    run = tune(tiny_model, photos, tmp_path / "run", head="none")
    package = Package(sz.export(run, "coreml", tmp_path / "x.mlpackage").path)
    assert list(package.block.outputs) == ["classLabel", PROBS]
    assert_equal(package, run, draw_pictures(run)[::10], 1e-4)


def test_where_too_few_images_were_left_out_nothing_is_turned_away(finished_run: Path, tmp_path: Path) -> None:
    """The limit of distances is infinite then, which is stored as the largest number."""
    run = sz.Run.load(finished_run)
    options = sz.ExportOptions(head_only=True, reject=1e-6)
    package = Package(sz.export(run, "coreml", tmp_path / "x.mlpackage", options=options).path)
    record = describe_run(run, sz.load(run.model_folder), 1e-6)
    assert record.head is not None
    assert record.head.farthest == np.inf
    feature = np.random.default_rng(0).standard_normal(record.words.shape[1])
    assert package.run(feature)["rejected"].tolist() == [0]


def test_names_that_stand_twice_get_their_folders(finished_run: Path, tmp_path: Path) -> None:
    run = sz.Run.load(finished_run)
    record = describe_run(run, sz.load(run.model_folder))
    twins = replace(record, names=("cat", "cat", "bird \udc80"), folders=("a", "b", "c"))
    assert name_labels(twins) == ["cat (a)", "cat (b)", "bird ?"]
    write_coreml(tmp_path / "x.mlpackage", twins, None, half=False)
    answer = Package(tmp_path / "x.mlpackage").run(np.ones(record.words.shape[1]))
    assert list(answer[PROBS]) == name_labels(twins)


def test_the_command_writes_one_package_and_says_nothing_else(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main.run(["export", str(finished_run), "--to", "coreml"]) == 0
    shown = capsys.readouterr()
    assert re.match(r"run\.mlpackage: 3 files, \d+ kB, 3 classes\nlicence of the model: not named\n", shown.out)
    if sys.platform != "darwin":
        assert shown.err.splitlines()[1:] == ["note: not compared with this program: Core ML is on Macs only"]
    assert [path.name for path in tmp_path.iterdir()] == ["run.mlpackage"]


def test_what_a_package_cannot(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for words, expected in (
        (["--output", "pets"], "pets: the name of a Core ML package ends in .mlpackage; choose pets.mlpackage"),
        (["--head-only", "--dtype", "float16"], "--dtype float16: is for the image tower"),
        (["--input", "float"], "--input float: is for --to onnx"),
    ):
        assert expected in refused("export", finished_run, "--to", "coreml", *words)
    monkeypatch.setattr(util, "find_spec", lambda *_: None)
    assert 'pip install "sharpzo-mlx[coreml]"' in refused("export", finished_run, "--to", "coreml")
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_export_leaves_nothing(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = coreml_model.write_coreml

    def write_and_stop(*given: Any, **more: Any) -> None:
        written(*given, **more)
        raise KeyboardInterrupt

    monkeypatch.setattr(coreml_model, "write_coreml", write_and_stop)
    with pytest.raises(KeyboardInterrupt):
        sz.export(finished_run, "coreml", tmp_path / "new" / "x.mlpackage")
    (tmp_path / "x.mlpackage").mkdir()
    (tmp_path / "x.mlpackage" / "mine").touch()
    with pytest.raises(sz.UserError, match="exists"):
        sz.export(finished_run, "coreml", tmp_path / "x.mlpackage")
    assert [path.name for path in tmp_path.rglob("*")] == ["x.mlpackage", "mine"]


def test_a_full_disk_is_one_line(finished_run: Path, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(sz.UserError, match=r"x\.mlpackage: coremltools cannot write it; make space"):
            sz.export(finished_run, "coreml", tmp_path / "new" / "x.mlpackage")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_noise_of_coremltools_stays_inside(recwarn: pytest.WarningsRecorder, capfd: pytest.CaptureFixture[str]) -> None:
    """Its messages, warnings and bars are dropped, and what others say meanwhile is heard again afterwards."""
    logger = logging.getLogger("coremltools")
    level = logger.level
    with quiet():
        logger.error("torch is newer than what was tested")
        warnings.warn("numpy too", stacklevel=1)
        print("Running passes: 100%", file=sys.stderr)
    assert capfd.readouterr().err == ""
    assert len(recwarn) == 0
    assert logger.level == level
    with pytest.raises(ValueError, match="heard"), quiet():
        raise ValueError("heard")
    assert logger.level == level
