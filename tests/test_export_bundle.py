"""The two plain files of a bundle: read as the documentation says in NumPy and JavaScript, they answer as `predict`."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported_runs import draw_pictures, tune
from head_answers import paint_strangers

import sharpzo_mlx as sz

ROOT = Path(__file__).resolve().parents[1]
GUIDE, REFERENCE = ROOT / "docs" / "guide" / "export.md", ROOT / "docs" / "reference" / "classifier-files.md"


def code(page: Path, language: str, mark: str) -> str:
    """The block of a page in a language that holds a certain text."""
    blocks = re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    (found,) = [block for block in blocks if mark in block]
    return str(found)


def answer_in_numpy(folder: Path, features: np.ndarray) -> dict[str, Any]:
    """What the NumPy of the reference page says of features."""
    names: dict[str, Any] = {"folder": folder, "features": features}
    exec(compile(code(REFERENCE, "python", "classifier.safetensors"), "reference", "exec"), names)
    return names


@pytest.fixture(scope="module", params=["head", "words"])
def run(
    request: pytest.FixtureRequest, finished_run: Path, tiny_model: Path, photos: Path, tmp_path_factory: Any
) -> sz.Run:
    if request.param == "head":
        return sz.Run.load(finished_run)
    return tune(tiny_model, photos, tmp_path_factory.mktemp("words") / "run", head="none")


@pytest.fixture(scope="module")
def images(run: sz.Run, tmp_path_factory: Any) -> list[Path]:
    strangers = paint_strangers(tmp_path_factory.mktemp("strangers"))
    known = [Path(run.record.dataset) / relative for relative, _ in run.record.images.train]
    return [*known, *sorted(path for path in strangers.rglob("*.png") if path.name != "broken.png")]


def predicted(run: sz.Run, images: list[Path]) -> tuple[np.ndarray, list[bool]]:
    """The probabilities in the order of the names, and which images are turned away."""
    rate = None if run.prompt.head is None else 0.05
    found = sz.predict(run, images, top=3, reject=rate)
    rows = [[dict(one.labels)[name] for name in run.prompt.class_names] for one in found]
    return np.array(rows), [one.rejected for one in found]


def test_numpy_of_the_reference_answers_as_predict(run: sz.Run, images: list[Path], tmp_path: Path) -> None:
    report = sz.export(run, "bundle", tmp_path / "b")
    assert [name for name, _ in report.files] == ["classifier.json", "classifier.safetensors"]
    features = np.array(sz.load(run.model_folder).encode_images(images))
    found = answer_in_numpy(tmp_path / "b", 2 * features)
    expected, rejected = predicted(run, images)
    np.testing.assert_allclose(found["probabilities"], expected, atol=1e-5)
    assert found["rejected"].tolist() == rejected
    assert (run.prompt.head is None) == (not any(rejected))


@pytest.mark.skipif(shutil.which("node") is None, reason="no node here")
def test_javascript_of_the_guide_answers_as_predict(run: sz.Run, images: list[Path], tmp_path: Path) -> None:
    sz.export(run, "bundle", tmp_path / "b")
    (tmp_path / "classifier.mjs").write_text(code(GUIDE, "js", "loadClassifier"))
    features = np.array(sz.load(run.model_folder).encode_images(images))
    (tmp_path / "features.json").write_text(json.dumps((3 * features).tolist()))
    (tmp_path / "use.mjs").write_text(
        'import { readFileSync } from "node:fs";\n'
        'import { loadClassifier, classify } from "./classifier.mjs";\n'
        'const classifier = await loadClassifier("b");\n'
        'const features = JSON.parse(readFileSync("features.json"));\n'
        "console.log(JSON.stringify(features.map((feature) => classify(classifier, feature))));\n"
    )
    done = subprocess.run(["node", "use.mjs"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    expected, rejected = predicted(run, images)
    np.testing.assert_allclose([one["probabilities"] for one in found], expected, atol=1e-5)
    assert [one["rejected"] for one in found] == rejected
    assert [one["name"] for one in found] == [run.prompt.class_names[row.argmax()] for row in expected]


def test_two_hundred_pictures(run: sz.Run, tmp_path: Path) -> None:
    sz.export(run, "bundle", tmp_path / "b")
    features = sz.load(run.model_folder).encode_pixels(draw_pictures(run))
    found = answer_in_numpy(tmp_path / "b", np.array(features))
    logits = np.array(run.prompt.logits(features))
    expected = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(found["probabilities"], expected / expected.sum(axis=1, keepdims=True), atol=1e-4)


def test_every_field_is_described(run: sz.Run, tmp_path: Path) -> None:
    about = json.loads((sz.export(run, "bundle", tmp_path / "b").path / "classifier.json").read_text())
    words = REFERENCE.read_text(encoding="utf-8")
    for name in (
        *about,
        *about["preprocessing"],
        *(about["guard"] or {}),
        *(about["rejection"] or {}),
        *about["model"],
    ):
        assert f"`{name}`" in words, name
    assert about["licence"] is None
    assert str(run.folder) not in json.dumps(about)
    assert str(run.model_folder) not in json.dumps(about)


def test_too_few_images_for_a_rate(finished_run: Path, tmp_path: Path) -> None:
    options = sz.ExportOptions(reject=0.001)
    folder = sz.export(finished_run, "bundle", tmp_path / "b", options=options).path
    assert json.loads((folder / "classifier.json").read_text())["rejection"] == {"rate": 0.001, "distance": None}
