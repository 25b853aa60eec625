"""Compare heads with closed forms and prompt tuning: accuracy and calibration by shots, under shift too.

The classifiers are methods of `compare`: zero-shot, nearest mean, ridge, Gaussian discriminant analysis (GDA) alone and
joined with the words by shares chosen on the validation images; the head of `tune` without its guard, with it, and with
words tuned beside it, which is the default; and with `--tuned N`, for the seeds below N, SharpZO alone and joined with
GDA. Images are pooled and drawn by each seed as in accuracy.py. Shifted sets have the classes of the training set:
sketches for photographs, and painted lights and drawings for painted day, with the demonstration's model.

    python benchmarks/heads.py --model m --testbed ../shared/testbed --work heads --output heads.jsonl
    python benchmarks/heads.py --model m --choice choice --output choice.jsonl     # sets made by choice_sets.py
    python benchmarks/heads.py --features a.npz b.npz --output features.jsonl      # see head_features.py
    python benchmarks/heads.py --model m --unequal 2 --shots 16 --output unequal.jsonl

Each result is a JSON line; what is in the output already is not measured again. Markdown tables are printed at the end.
Seconds are a method's own: images and views are encoded before.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import head_features
from accuracy import pool_images
from head_tables import METHODS, TUNED, Measured, format_tables
from json_lines import append_lines, read_lines

import sharpzo_mlx as sz

import mlx.core as mx  # isort: skip  (after this package, which loads OpenBLAS)
import numpy as np

from sharpzo_mlx.comparison.methods import registry
from sharpzo_mlx.comparison.methods.classifiers import HeadClassifier
from sharpzo_mlx.comparison.methods.method import Predictor, Task
from sharpzo_mlx.datasets.folder import read_folder
from sharpzo_mlx.datasets.matching import match_classes
from sharpzo_mlx.datasets.splits import draw_split
from sharpzo_mlx.demo import LIVING, MODEL_FOLDER
from sharpzo_mlx.demo.painting import paint
from sharpzo_mlx.evaluation.metrics import Outcomes, calibration_error
from sharpzo_mlx.features.extract import Features, encode, finish
from sharpzo_mlx.rng import generator_for
from sharpzo_mlx.tuning.beside_head import count_views, encode_all_views

RENDERED = {"day": "photo", "dusk": "dusk", "night": "night", "pencil": "pencil"}  # set -> style
PICTURES = 60  # of a class in a rendered set
Sets = dict[str, tuple[str, ...]]  # trained on -> shifted sets of the same classes
CONFIRMATION: Sets = {
    "pacs/photo": ("pacs/sketch",),
    "pacs/sketch": ("pacs/photo",),
    "tiny-superclasses": (),
    "rendered/day": ("rendered/dusk", "rendered/night", "rendered/pencil"),
    "caltech101": (),
}
CHOICE: Sets = {
    "painted/dusk": ("painted/day", "painted/night", "painted/pencil"),
    "painted/night": ("painted/day", "painted/dusk", "painted/pencil"),
    "tiny-edges": (),
    "caltech-negative": (),
    "fresh/photo-edges": ("fresh/photo-negative",),
    "fresh/photo-negative": ("fresh/photo-edges",),
    "fresh/tiny-superclasses-edges": ("fresh/tiny-superclasses-negative",),
    "fresh/tiny-superclasses-negative": ("fresh/tiny-superclasses-edges",),
}
PAINTED = ("rendered", "painted")  # for the demonstration's model
SHOTS = (1, 2, 4, 8, 16)
SEEDS = 5
QUERIES = 5000
DRAWS = 100  # of labels, for the floor of the calibration error


def pool_set(name: str, given: argparse.Namespace) -> Path:
    """Return the folder of a set's pooled images; make it at the first use."""
    folder: Path = given.work / "images" / name.replace("/", "-")
    family, _, domain = name.partition("/")
    if folder.exists():
        return folder
    if family != "rendered":
        return pool_images((given.choice or given.testbed) / name, folder)
    for living in LIVING:
        (folder / living).mkdir(parents=True)
        for index in range(PICTURES):
            picture = paint(living, RENDERED[domain], generator_for(0, "heads", domain, living, index))
            picture.image.save(folder / living / f"{index:03}.png")
    return folder


def run_method(task: Task, name: str) -> tuple[Predictor, float]:
    """Run a method to its end; return its classifier and the seconds."""
    method, started = registry.method(name), time.monotonic()
    return finish(method.start(task, method.tuned)), time.monotonic() - started


def find_outcomes(logits: mx.array, labels: np.ndarray) -> Outcomes:
    """Return what logits [N, K] say of images with labels [N]."""
    shares = np.array(mx.softmax(logits, axis=-1, precise=True))
    predicted = shares.argmax(axis=1)
    right = predicted == labels
    return Outcomes(right, right, shares.max(axis=1), predicted)


def simulate_floor(found: Outcomes) -> float:
    """Return the mean calibration error of classifiers with these confidences that are right as often as they say."""
    drawn = generator_for(0, "floor").random((DRAWS, len(found.confidence))) < found.confidence
    return float(np.mean([calibration_error(replace(found, correct=right)) for right in drawn]))


def make_task(
    clip: sz.Clip, given: argparse.Namespace, name: str, shots: int, seed: int
) -> tuple[Task, dict[str, Features]]:
    """Return what the methods of one draw are given, and the test images by set."""
    split = draw_split(pool_set(name, given), shots=shots, seed=seed)
    assert split.test is not None
    train, val, test = (encode(clip, part) for part in (split.train, split.val, split.test))
    train, val = (take_fewer(part, given.unequal) if given.unequal else part for part in (train, val))
    targets = {name: test}
    for other in {**CONFIRMATION, **CHOICE}[name]:
        shifted = read_folder(pool_set(other, given))
        targets[other] = encode(clip, match_classes(shifted, train.class_names, train.folders))
    config = sz.TuneConfig(shots=shots, seed=seed, head="none", query_budget=QUERIES)
    finish(encode_all_views(clip, train, val, count_views(config, train, val)))  # into the cache
    clip.release_vision()
    return Task(clip, train, val, config, QUERIES), targets


def take_fewer(images: Features, most: int) -> Features:
    """Return the images with at most so many of every second class."""
    places = [np.flatnonzero(images.labels == label) for label in range(len(images.class_names))]
    return images.take(np.concatenate([rows[:most] if label % 2 else rows for label, rows in enumerate(places)]))


def measure_method(task: Task, targets: dict[str, Features], name: str) -> Iterator[Measured]:
    """Run one method and measure it on every set."""
    classifier, seconds = run_method(task, name)
    trained, config = next(iter(targets)), task.config
    for target, features in targets.items():
        outcomes = find_outcomes(classifier.logits(features), features.labels)
        opening = None
        if isinstance(classifier, HeadClassifier):
            opening = float(mx.mean(classifier.head.opening(features.embeddings)).item())
        yield Measured(
            trained=trained,
            target=target,
            shots=config.shots or 0,
            seed=config.seed,
            method=name,
            accuracy=outcomes.accuracy,
            ece=calibration_error(outcomes),
            floor=simulate_floor(outcomes),
            opening=opening,
            seconds=seconds,
        )


def run_study(given: argparse.Namespace) -> list[Measured]:
    """Measure what is missing in the output, and return everything that is in it."""
    sets, clips = CHOICE if given.choice else CONFIRMATION, {}
    found = {(one.draw, one.method): one for one in (Measured(**line) for line in read_lines(given.output))}
    for name in given.sets or sets:
        family = "painted" if name.split("/")[0] in PAINTED else "given"
        for shots, seed in ((shots, seed) for shots in given.shots for seed in range(given.seeds)):
            methods = METHODS + (TUNED if seed < given.tuned else ())
            pairs = [(name, target, shots, seed) for target in (name, *sets[name])]
            missing = [method for method in methods if any((pair, method) not in found for pair in pairs)]
            if not missing:
                continue
            clip = clips.get(family) or clips.setdefault(
                family, sz.load(MODEL_FOLDER if family == "painted" else given.model)
            )
            task, targets = make_task(clip, given, name, shots, seed)
            for method in missing:
                results = list(measure_method(task, targets, method))
                append_lines(given.output, map(asdict, results))
                found |= {(one.draw, one.method): one for one in results}
    return list(found.values())


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a converted model folder, for all sets that are not painted")
    parser.add_argument("--testbed", type=Path, default=Path("../shared/testbed"), help="where the data sets lie")
    parser.add_argument("--choice", type=Path, help="measure on the sets that choice_sets.py made in this folder")
    parser.add_argument("--features", type=Path, nargs="+", help="measure on stored features, see head_features.py")
    parser.add_argument("--sets", nargs="+", help="the sets to train on [all]")
    parser.add_argument("--shots", type=int, nargs="+", default=SHOTS)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="number of seeds, from 0")
    parser.add_argument("--unequal", type=int, default=0, help="at most so many images of every second class")
    parser.add_argument("--tuned", type=int, default=0, help="seeds for SharpZO alone and with GDA, which are slow")
    parser.add_argument("--work", type=Path, default=Path("heads"), help="folder for pooled images")
    parser.add_argument("--output", type=Path, default=Path("heads.jsonl"))
    given = parser.parse_args()
    known = CHOICE if given.choice else CONFIRMATION
    if unknown := [name for name in given.sets or () if name not in known]:
        parser.error(f"--sets {unknown[0]}: choose among {', '.join(known)}")
    if given.features:
        print(run_features(given))
    else:
        print(format_tables(run_study(given)))


def run_features(given: argparse.Namespace) -> str:
    """Measure stored features, and return the tables."""
    found = [head_features.FeatureMeasured(**line) for line in read_lines(given.output)]
    done = {(one.file, one.shots, one.seed) for one in found}
    for one in head_features.measure_files(given.features, given.seeds, done, given.shots):
        append_lines(given.output, [asdict(one)])
        found.append(one)
    return head_features.format_tables(found)


if __name__ == "__main__":
    main()
