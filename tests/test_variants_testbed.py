"""ImageNet's variants made of the testbed's tiny-imagenet: accuracies against a few independent lines of NumPy."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import sharpzo_mlx as sz
from sharpzo_mlx.convert import convert
from sharpzo_mlx.prompts.prompt import Prompt
from sharpzo_mlx.runs.prompt_file import write_prompt
from sharpzo_mlx.runs.record import DrawnImages, ModelRecord, RunRecord
from sharpzo_mlx.runs.run import PROMPT

IMAGES = 2  # of each of the 200 classes


@pytest.fixture(scope="module")
def run(testbed: Path, tmp_path_factory: pytest.TempPathFactory) -> sz.Run:
    """A run on the 200 classes: the classifier of another template stands for a tuned prompt."""
    place = tmp_path_factory.mktemp("testbed")
    clip = sz.load(convert(testbed / "clip-tiny", place / "clip").folder)
    lines = (testbed / "tiny-imagenet" / "classnames.txt").read_text().splitlines()
    ids, names = zip(*(line.split(" ", 1) for line in sorted(lines)), strict=True)
    before, after = (
        clip.encode_texts([template.format(name) for name in names]) for template in ("a photo of a {}.", "a {}.")
    )
    record = RunRecord(
        status="running",
        model=ModelRecord(str(clip.folder), clip.fingerprint),
        dataset=str(testbed / "tiny-imagenet"),
        shots=0,
        images=DrawnImages((), ()),
        class_names=names,
        class_folders=ids,
        versions={},
    )
    made = sz.Run(place / "run", sz.TuneConfig().with_settings({"space.dimension": 2}), record)
    made.folder.mkdir()
    made.save()
    nothing = mx.zeros((1, 1))
    prompt = Prompt(nothing, mx.zeros(2), after, before, names, ids, clip.logit_scale, "a photo of a {}.")
    write_prompt(made.folder / PROMPT, prompt)
    return made


@pytest.fixture(scope="module")
def truth(run: sz.Run, testbed: Path) -> tuple[list[Path], np.ndarray, np.ndarray]:
    """The images, their class by folder, and the logits of both classifiers [2, N, K]."""
    paths = [
        path
        for wnid in run.prompt.folders
        for path in sorted((testbed / "tiny-imagenet" / "test" / wnid).iterdir())[:IMAGES]
    ]
    features = np.array(sz.load(run.model_folder).encode_images(paths))
    classifiers = [np.array(run.prompt.zero_shot_features), np.array(run.prompt.class_features)]
    labels = np.array([sorted(run.prompt.folders).index(path.parent.name) for path in paths])
    return paths, labels, np.stack([features @ classifier.T for classifier in classifiers])


def linked(folder: Path, paths: list[Path], names: list[str]) -> Path:
    """A folder of class folders with links to images."""
    for path, name in zip(paths, names, strict=True):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / path.name).symlink_to(path)
    return folder


def test_variants(run: sz.Run, truth: tuple[list[Path], np.ndarray, np.ndarray], tmp_path: Path) -> None:
    paths, labels, logits = truth
    ids = [path.parent.name for path in paths]
    every = (logits.argmax(axis=2) == labels).mean(axis=1)
    assert every.max() > 0.05  # the model knows something: wrong names would show
    some = labels < 40
    own = (logits[:, some, :40].argmax(axis=2) == labels[some]).mean(axis=1)
    among_all = (logits[:, some].argmax(axis=2) == labels[some]).mean(axis=1)
    chosen = [path for path, inside in zip(paths, some, strict=True) if inside]
    folders = [
        linked(tmp_path / "v2", paths, [str(label) for label in labels]),
        linked(tmp_path / "c" / "noise" / "shot" / "1", paths, ids).parents[2],
        linked(tmp_path / "subset", chosen, ids[: len(chosen)]),
    ]
    report = sz.evaluate(run, folders)
    for result, wanted in zip(report.folders, (every, every, among_all), strict=True):
        assert (result.zero_shot, result.tuned) == pytest.approx(tuple(wanted))
    assert [(part.corruption, part.severity) for part in report.folders[1].parts] == [("shot", "1")]
    alone = sz.evaluate(run, folders[2], scope="own").folders[0]
    assert (alone.zero_shot, alone.tuned) == pytest.approx(tuple(own))
    assert alone.zero_shot > report.folders[2].zero_shot  # fewer rivals


def test_a_split_file(run: sz.Run, truth: tuple[list[Path], np.ndarray, np.ndarray], tmp_path: Path) -> None:
    paths, labels, logits = truth
    linked(tmp_path / "images", paths, [path.parent.name for path in paths])
    names = run.prompt.class_names
    rows = [(f"{p.parent.name}/{p.name}", int(k), names[k]) for p, k in zip(paths, labels, strict=True)]
    (tmp_path / "split_zhou_Tiny.json").write_text(json.dumps({"train": rows, "val": [], "test": rows[::2]}))
    result = sz.evaluate(run, tmp_path).folders[0]
    wanted = (logits[:, ::2].argmax(axis=2) == labels[::2]).mean(axis=1)
    assert (result.zero_shot, result.tuned) == pytest.approx(tuple(wanted))
