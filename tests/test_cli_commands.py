"""tune, evaluate, predict and doctor end to end in process, on a very small random CLIP and painted images."""

from __future__ import annotations

import csv
import io
import json
import logging
import shutil
import string
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from PIL import Image
from tiny_settings import EIGHT_FLAGS

import sharpzo_mlx
from sharpzo_mlx.cli import doctor, main
from sharpzo_mlx.clip.checkpoint import save_model
from sharpzo_mlx.clip.config import CLIPConfig
from sharpzo_mlx.clip.model import CLIPModel
from sharpzo_mlx.files import CACHE_VARIABLE, default_model_folder
from sharpzo_mlx.runtime import precision, startup

Capture = pytest.CaptureFixture[str]
ON_CPU = mx.default_device() == mx.Device(mx.cpu)
CLASSES = {"red": (220, 30, 30), "green_leaf": (30, 200, 30), "blue": (30, 30, 220)}
QUICK = [
    "--query-budget",
    "60",
    "--set",
    "stage1.population=6",
    "--set",
    "space.dimension=8",
    "--steps",
    "10",
    "--seed",
    "0",
    "--no-report",
]


def tokenizer_json() -> str:
    """A tokenizer of CLIP's kind that knows letters and punctuation, and no merges."""
    letters = list(string.ascii_lowercase + string.digits + string.punctuation)
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    model = {"type": "BPE", "vocab": {token: i for i, token in enumerate(tokens)}, "merges": []}
    model["end_of_word_suffix"] = "</w>"
    return json.dumps({"version": "1.0", "model": model})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP with random weights and its tokenizer, in our layout."""
    vocabulary = len(json.loads(tokenizer_json())["model"]["vocab"])
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1}
    text = tower | {"vocab_size": vocabulary, "bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1}
    vision = tower | {"image_size": 16, "patch_size": 8}
    given = {"model_type": "clip", "text_config": text, "vision_config": vision, "projection_dim": 32}
    config = CLIPConfig.from_dict(given)
    draw = np.random.default_rng(1)
    shapes = sorted(dict(tree_flatten(CLIPModel(config).parameters())).items())
    weights = {name: mx.array(0.2 * draw.standard_normal(w.shape)).astype(mx.float32) for name, w in shapes}
    weights["logit_scale"] = mx.array(3.0)
    folder = tmp_path_factory.mktemp("model") / "m"
    save_model(folder, config, weights, tokenizer_json(), "# A model\n")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noisy images of three colours: 4 + 2 + 6 a class, one of them unreadable."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    draw = np.random.default_rng(2)
    for split, count in (("train", 4), ("val", 2), ("test", 6)):
        for name, colour in CLASSES.items():
            place = folder / split / name
            place.mkdir(parents=True)
            for number in range(count):
                noise = draw.integers(-30, 30, (20, 24, 3))
                pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")
    (folder / "test" / "blue" / "broken.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def tuned(model: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("runs") / "r"
    assert main.run(["tune", str(photos), "--model", str(model), "--output", str(folder), *QUICK]) == 0
    return folder


def test_tune_for_a_reader(model: Path, photos: Path, tmp_path: Path, capsys: Capture) -> None:
    output = tmp_path / "my run"
    words = ["tune", str(photos), "--model", str(model), "--output", str(output), *QUICK]
    assert main.run(words) == 0
    out, err = capsys.readouterr()
    results = json.loads((output / "run.json").read_text())["results"]
    assert f"{100 * results['zero_shot']:.1f} %" in out
    assert f"{100 * results['test']:.1f} %" in out
    assert f"{results['queries']} queries" in out
    assert f"sharpzo-mlx evaluate '{output}' {photos / 'test'}" in out
    assert "stage 1, 1 of" in err
    assert "test images: 19 of 19 read" in err


def test_the_next_command_names_no_folder_without_classes(
    model: Path, photos: Path, tmp_path: Path, capsys: Capture
) -> None:
    for name in ("train", "val"):
        shutil.copytree(photos / name, tmp_path / "data" / name)
    (tmp_path / "data" / "test").mkdir()
    shutil.copy(photos / "test" / "red" / "0.png", tmp_path / "data" / "test" / "unlabelled.png")
    words = ["tune", str(tmp_path / "data"), "--model", str(model), "--output", str(tmp_path / "r"), *QUICK]
    assert main.run(words) == 0
    out, err = capsys.readouterr()
    assert f"sharpzo-mlx evaluate {tmp_path / 'r'} FOLDER" in out
    assert "data: test: beside the splits, so left out" in err


def test_tune_for_a_script(model: Path, photos: Path, tmp_path: Path, capsys: Capture) -> None:
    words = ["tune", str(photos), "--model", str(model), "--output", str(tmp_path / "r"), "--json", *QUICK]
    assert main.run(words) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    record = json.loads(out)
    assert list(record) == ["run", "zero_shot", "val", "test", "queries", "seconds", "peak_memory_mb"]
    assert record["run"] == str(tmp_path / "r")
    assert 0 < record["queries"] <= 60
    for share in (record["zero_shot"], record["test"]):  # 18 readable images
        assert share * 18 == pytest.approx(round(share * 18))
    assert err != ""
    assert main.run(words) == 2  # never over a run that is there
    assert "--resume" in capsys.readouterr().err
    assert main.run([*words, "--resume"]) == 0  # it is finished: the same answer, no work
    again = json.loads(capsys.readouterr().out)
    assert again == record


def test_tune_without_a_test_split_says_null(model: Path, photos: Path, tmp_path: Path, capsys: Capture) -> None:
    """Five images a class, four for training and one for validation: nothing is left to test on."""
    data = tmp_path / "few"
    for name in CLASSES:
        (data / name).mkdir(parents=True)
        for number in range(5):
            source = photos / "test" / name / f"{number}.png"
            (data / name / source.name).write_bytes(source.read_bytes())
    words = ["tune", str(data), "--model", str(model), "--output", str(tmp_path / "r"), "--shots", "4"]
    assert main.run([*words, "--json", *QUICK]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["test"] is None
    assert record["val"] is not None


INTERRUPTED = """
import os, signal, sys
from sharpzo_mlx.cli.main import run
from sharpzo_mlx.tuning.search import Search

plain, saved = Search.state, 0

def state(search):
    global saved
    saved += 1
    if saved == 100:
        os.kill(os.getpid(), signal.SIGINT)
    return plain(search)

Search.state = state
sys.exit(run(sys.argv[1:]))
"""


def test_interrupted_tune_is_usable_and_goes_on(model: Path, photos: Path, tmp_path: Path, capsys: Capture) -> None:
    """Ctrl-C in a process of its own: 130, a way on, a run that evaluates, and in the end the undisturbed result."""
    options = [
        "--query-budget",
        "1600",
        *EIGHT_FLAGS,
        "--steps",
        "1200",
        "--json",
        "--no-report",
    ]
    words = ["tune", str(photos), "--model", str(model), *options]
    output = ["--output", str(tmp_path / "r")]
    process = subprocess.Popen([sys.executable, "-c", INTERRUPTED, *words, *output], stderr=subprocess.PIPE, text=True)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"--output {tmp_path / 'r'} --resume goes on" in err
    assert "Traceback" not in err
    assert main.run(["evaluate", str(tmp_path / "r"), str(photos / "val"), "--json"]) == 0
    assert main.run([*words, *output, "--resume"]) == 0
    assert main.run([*words, "--output", str(tmp_path / "undisturbed")]) == 0
    _, resumed, undisturbed = map(json.loads, capsys.readouterr().out.splitlines())
    assert {k: resumed[k] for k in SAME} == {k: undisturbed[k] for k in SAME}


SAME = ("zero_shot", "val", "test", "queries")


def test_a_failed_tune_leaves_nothing(model: Path, tmp_path: Path, capsys: Capture) -> None:
    words = ["tune", str(tmp_path / "absent"), "--model", str(model), "--output", str(tmp_path / "r"), *QUICK]
    assert main.run(words) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "r").exists()


def test_no_model_names_the_command_that_makes_one(photos: Path, capsys: Capture) -> None:
    assert main.run(["tune", str(photos), *QUICK]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "sharpzo-mlx convert" in err


def test_evaluate(tuned: Path, photos: Path, capsys: Capture) -> None:
    report = sharpzo_mlx.evaluate(tuned, [photos / "test", photos / "val"])
    words = ["evaluate", str(tuned), str(photos / "test"), str(photos / "val")]
    assert main.run([*words, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["mean"] == {"zero_shot": report.zero_shot, "tuned": report.tuned}
    kept = ("path", "images", "zero_shot", "tuned")
    assert [{name: row[name] for name in kept} for row in record["folders"]] == [
        {"path": str(row.path), "images": row.images, "zero_shot": row.zero_shot, "tuned": row.tuned}
        for row in report.folders
    ]
    assert [row["images"] for row in record["folders"]] == [18, 6]
    assert main.run(words) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table[:4]] == ["folder", *words[2:], "mean"]
    assert table[1].split()[-1] == "1"  # the unreadable one
    assert f"{100 * report.folders[0].tuned:.1f} %" in table[1]


def test_evaluate_names_unknown_classes_and_folders(tuned: Path, photos: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "zebra").mkdir()
    (tmp_path / "zebra" / "0.png").write_bytes((photos / "test" / "red" / "0.png").read_bytes())
    assert main.run(["evaluate", str(tuned), str(tmp_path)]) == 2
    assert "zebra" in capsys.readouterr().err
    assert main.run(["evaluate", str(tmp_path), str(photos / "test")]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_predict_in_all_styles(tuned: Path, photos: Path, capsys: Capture) -> None:
    good, bad = photos / "test" / "red" / "0.png", photos / "test" / "blue" / "broken.png"
    (expected, _) = sharpzo_mlx.predict(tuned, [good, bad], top=2)
    words = ["predict", str(tuned), str(good), str(bad), "--top", "2"]
    assert main.run([*words, "--json"]) == 0
    out, err = capsys.readouterr()
    first, second = json.loads(out)["predictions"]
    assert [(row["label"], row["probability"]) for row in first["labels"]] == list(expected.labels)
    assert first["error"] is None
    assert second == {"path": str(bad), "labels": [], "error": second["error"]}
    assert f"note: {bad}: " in err
    assert main.run([*words, "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["label"] for row in rows] == [label for label, _ in expected.labels] + [""]
    assert float(rows[0]["probability"]) == pytest.approx(expected.labels[0][1], abs=1e-6)
    assert rows[2]["error"] != ""
    assert main.run(words) == 0
    label, share = expected.labels[0]
    assert capsys.readouterr().out.startswith(f"{good}: {label} {100 * share:.1f} %, ")


def test_predict_on_nothing_readable_is_an_error(tuned: Path, photos: Path, capsys: Capture) -> None:
    assert main.run(["predict", str(tuned), str(photos / "test" / "blue" / "broken.png"), "absent.jpg"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith("error: ")


def test_model_that_has_moved(tuned: Path, photos: Path, model: Path, tmp_path: Path, capsys: Capture) -> None:
    moved = tmp_path / "elsewhere"
    moved.symlink_to(model)
    words = ["predict", str(tuned), str(photos / "test" / "red" / "0.png"), "--model"]
    assert main.run([*words, str(moved)]) == 0
    assert main.run([*words, str(tmp_path / "absent")]) == 2
    assert "absent" in capsys.readouterr().err


def findings(capsys: Capture) -> dict[str, dict[str, Any]]:
    return {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)["findings"]}


def test_doctor_reports_every_check_and_exits_0(capsys: Capture) -> None:
    assert main.run(["doctor", "--json"]) == 0
    found = findings(capsys)
    assert len(found) == len(doctor.CHECKS)
    assert "GFLOP/s" in found["products"]["words"]
    assert startup.blas in found["products"]["words"] or not ON_CPU
    assert "MLX_ENABLE_TF32=0" in found["precision"]["words"]
    assert found["default model"]["remedy"].startswith("sharpzo-mlx convert")
    assert main.run(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "-> sharpzo-mlx convert" in shown
    assert all(name in shown for name in found)


def test_doctor_sees_the_default_model_and_the_caches(model: Path, capsys: Capture) -> None:
    default_model_folder().parent.mkdir(parents=True)
    default_model_folder().symlink_to(model)
    assert main.run(["doctor", "--json"]) == 0
    found = findings(capsys)
    assert found["default model"]["remedy"] is None
    assert str(default_model_folder()) in found["default model"]["words"]
    assert str(default_model_folder().parents[1]) in found["caches"]["words"]


@pytest.mark.parametrize("below", ["", "below/it"])
def test_doctor_sees_that_the_caches_place_is_a_file(
    below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file" / below))
    assert main.run(["doctor", "--json"]) == 0
    found = findings(capsys)["caches"]
    assert f"{tmp_path / 'file'} is not a folder" in found["words"]
    assert CACHE_VARIABLE in found["remedy"]


def test_doctor_names_each_problem_with_its_remedy(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(startup, "blas", "reference")
    monkeypatch.setattr(precision, "product_error", lambda: 3e-4)
    for module in ("mlx.data", "pillow_heif"):
        monkeypatch.setitem(sys.modules, module, None)  # an import fails
    monkeypatch.delenv(startup.BLAS_SWITCH, raising=False)
    assert main.run(["doctor", "--json"]) == 0  # slower and poorer, not broken
    found = findings(capsys)
    if ON_CPU:
        assert "libopenblas0-pthread" in found["products"]["remedy"]
    assert "MLX_ENABLE_TF32=0" in found["precision"]["remedy"]
    assert "pip install mlx-data" in found["mlx-data"]["remedy"]
    assert "pip install pillow-heif" in found["pillow-heif"]["remedy"]


def test_doctor_gets_to_the_end_of_a_broken_machine(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no device")

    monkeypatch.setattr(mx, "default_device", broken)
    assert main.run(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("FAIL") and "no device" in line for line in lines)
    assert any("pillow-heif" in line for line in lines)


@pytest.fixture(autouse=True)
def _quiet_logger() -> Iterator[None]:
    """The handler that the command line installs does not outlive these tests."""
    yield
    logging.getLogger("sharpzo_mlx").handlers.clear()
