"""Compare closed-form classifiers with prompt tuning: accuracy by shots, in distribution and under shift.

Nearest class mean, ridge regression and Gaussian discriminant analysis (GDA) on cached features, zero-shot joined with
GDA (arXiv 2402.04087), SharpZO, and SharpZO joined with GDA as `tune --head gda` does it. Images are pooled and drawn
by each seed as in accuracy.py. Shifted sets have the classes of the training set: sketches for photographs, and painted
dusk, night and pencil for painted day, with the demonstration's model. Runs stay in --work, so that an interrupted
script continues with them; it prints tables in Markdown and writes the numbers to a JSON file.

    python benchmarks/heads.py --model m --testbed ../shared/testbed --work heads --output heads.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from accuracy import pool_images

import mlx.core as mx  # isort: skip  (after this package, which loads OpenBLAS)
import numpy as np

import sharpzo_mlx as sz
from sharpzo_mlx.comparison.methods.closed_forms import fit_alone
from sharpzo_mlx.comparison.methods.method import Predictor, Task
from sharpzo_mlx.datasets.folder import read_folder
from sharpzo_mlx.datasets.matching import match_classes
from sharpzo_mlx.datasets.splits import draw_split
from sharpzo_mlx.demo import LIVING, MODEL_FOLDER
from sharpzo_mlx.demo.painting import paint
from sharpzo_mlx.evaluation.metrics import Outcomes, calibration_error
from sharpzo_mlx.features.extract import Features, encode
from sharpzo_mlx.heads.closed_form import fit_discriminant, fit_nearest_mean, fit_ridge
from sharpzo_mlx.heads.head import join_head
from sharpzo_mlx.objective.loss import score_logits
from sharpzo_mlx.prompts.prompt import Prompt
from sharpzo_mlx.rng import generator_for
from sharpzo_mlx.tuning.pipeline import tune
from sharpzo_mlx.tuning.problem import make_problem

RENDERED = {"day": "photo", "dusk": "dusk", "night": "night", "pencil": "pencil"}  # set -> style
PICTURES = 60  # of a class in a rendered set
SETS: dict[str, tuple[str, ...]] = {  # trained on -> shifted sets of the same classes
    "pacs/photo": ("pacs/sketch",),
    "pacs/sketch": ("pacs/photo",),
    "tiny-superclasses": (),
    "rendered/day": ("rendered/dusk", "rendered/night", "rendered/pencil"),
    "caltech101": (),
}
SHOTS = (1, 2, 4, 8, 16)
SEEDS, TUNED_SEEDS, SLOW = 5, {"caltech101": 0}, 3
QUERIES = 5000
METHODS = ("zero-shot", "nearest mean", "ridge", "GDA", "zero-shot + GDA", "SharpZO", "SharpZO + GDA")
Classifier = Callable[[Features], mx.array]


@dataclass(frozen=True)
class Measured:
    """The result of one classifier on one set; accuracy and calibration error are 0..1."""

    trained: str
    target: str
    shots: int
    seed: int
    method: str
    accuracy: float
    ece: float


def pool_set(name: str, testbed: Path, work: Path) -> Path:
    """Return the folder of a set's pooled images; make it at the first use."""
    folder = work / "images" / name.replace("/", "-")
    family, _, domain = name.partition("/")
    if folder.exists():
        return folder
    if family != "rendered":
        return pool_images(testbed / name, folder)
    for living in LIVING:
        (folder / living).mkdir(parents=True)
        for index in range(PICTURES):
            picture = paint(living, RENDERED[domain], generator_for(0, "heads", domain, living, index))
            picture.image.save(folder / living / f"{index:03}.png")
    return folder


def fit_image_classifiers(task: Task) -> dict[str, Classifier]:
    """Fit the classifiers that use images alone."""
    fits = {"nearest mean": fit_nearest_mean, "ridge": fit_ridge, "GDA": fit_discriminant}
    return {name: run_method(task, partial(fit_alone, fit=fit)) for name, fit in fits.items()}


def run_method(task: Task, start: Callable[[Task, dict[str, object]], Iterator[object]]) -> Classifier:
    """Run a method to its end and return its classifier."""
    steps = start(task, {})
    while True:
        try:
            next(steps)
        except StopIteration as end:
            predictor: Predictor = end.value
            return predictor.logits


def make_text_classifiers(name: str, prompt: Prompt, train: Features, val: Features) -> dict[str, Classifier]:
    """Return a prompt's text classifier, alone and joined with GDA."""
    both = join_head(prompt, "gda", train, val)
    return {name: lambda f: prompt.text_logits(f.embeddings), f"{name} + GDA": lambda f: both.logits(f.embeddings)}


def measure_classifier(classifier: Classifier, features: Features) -> tuple[float, float]:
    """Return accuracy and calibration error of a classifier."""
    logits = classifier(features)
    shares = np.array(mx.softmax(logits, axis=-1))
    predicted = shares.argmax(axis=1)
    right = predicted == features.labels
    found = Outcomes(right, right, shares.max(axis=1), predicted)
    return score_logits(logits, mx.array(features.labels)).accuracy, calibration_error(found)


def measure(clip: sz.Clip, given: argparse.Namespace, name: str, shots: int, seed: int) -> Iterator[Measured]:
    """Measure every classifier of one draw on every set."""
    folder = pool_set(name, given.testbed, given.work)
    split = draw_split(folder, shots=shots, seed=seed)
    assert split.test is not None
    train, val, test = (encode(clip, part) for part in (split.train, split.val, split.test))
    targets = {name: test}
    for other in SETS[name]:
        shifted = read_folder(pool_set(other, given.testbed, given.work))
        targets[other] = encode(clip, match_classes(shifted, train.class_names, train.folders))
    config = sz.TuneConfig(shots=shots, seed=seed, query_budget=QUERIES)
    problem = make_problem(clip, train, val, config)
    zero_shot = problem.prompt(mx.zeros(config.space.dimension))
    found = make_text_classifiers("zero-shot", zero_shot, train, val) | fit_image_classifiers(
        Task(clip, train, val, config, QUERIES)
    )
    if seed < TUNED_SEEDS.get(name, SLOW):
        output = given.work / "runs" / f"{name.replace('/', '-')}-{shots}-{seed}"
        run = tune(clip, folder, config, output=output, resume=True)
        found |= make_text_classifiers("SharpZO", run.prompt, train, val)
    for method, classifier in found.items():
        for target, features in targets.items():
            yield Measured(name, target, shots, seed, method, *measure_classifier(classifier, features))


def format_tables(found: Sequence[Measured]) -> str:
    """Return a table for each pair of training and test set: accuracy by shots over the seeds, and means."""
    lines = []
    for trained, target in dict.fromkeys((one.trained, one.target) for one in found):
        lines += ["", f"{trained} -> {target}", "", f"| method | {' | '.join(map(str, SHOTS))} | ECE |"]
        lines.append("|---" * (len(SHOTS) + 2) + "|")
        for method in METHODS:
            rows = [one for one in found if (one.trained, one.target, one.method) == (trained, target, method)]
            cells = [format_spread([one.accuracy for one in rows if one.shots == shots]) for shots in SHOTS]
            lines.append(
                f"| {method} | {' | '.join(cells)} | {format_spread([one.ece for one in rows]).split(' ')[0]} |"
            )
    lines += ["", "In distribution", "", *format_means_table(found, shifted=False)]
    lines += ["", "Under shift", "", *format_means_table(found, shifted=True)]
    return "\n".join([*lines, "", *format_parts_table(found)])


def format_spread(values: Sequence[float]) -> str:
    """Return mean and standard deviation in per cent."""
    if not values:
        return "-"
    return f"{100 * np.mean(values):.1f} ± {100 * np.std(values, ddof=1 if len(values) > 1 else 0):.1f}"


def select_tuned_draws(found: Sequence[Measured]) -> list[Measured]:
    """Return the results on the draws that were also tuned."""
    tuned = {(one.trained, one.shots, one.seed) for one in found if one.method == "SharpZO"}
    return [one for one in found if (one.trained, one.shots, one.seed) in tuned]


def format_means_table(found: Sequence[Measured], *, shifted: bool) -> list[str]:
    """Return a table of methods by shots: means over sets, where each set is the mean of its tuned draws."""
    rows = [one for one in select_tuned_draws(found) if (one.trained != one.target) == shifted]
    pairs = sorted({(one.trained, one.target) for one in rows})
    lines = [f"| method | {' | '.join(map(str, SHOTS))} | mean | calibration error |", "|---" * (len(SHOTS) + 3) + "|"]
    for method in METHODS:
        parts = [[one for one in rows if (one.trained, one.target, one.method) == (*pair, method)] for pair in pairs]
        accuracies = [
            100 * np.mean([np.mean([one.accuracy for one in part if one.shots == shots]) for part in parts])
            for shots in SHOTS
        ]
        error = 100 * np.mean([np.mean([one.ece for one in part]) for part in parts])
        cells = [*accuracies, np.mean(accuracies), error]
        lines.append(f"| {method} | {' | '.join(f'{cell:.1f}' for cell in cells)} |")
    return lines


def format_parts_table(found: Sequence[Measured]) -> list[str]:
    """Return a table of joined classifiers and their parts on the tuned draws: means over shots and seeds."""
    paired = select_tuned_draws(found)
    chosen = ("zero-shot", "GDA", "zero-shot + GDA", "SharpZO", "SharpZO + GDA")
    lines = [f"| tuned on -> tested on | {' | '.join(chosen)} |", "|---" * (len(chosen) + 1) + "|"]
    for trained, target in dict.fromkeys((one.trained, one.target) for one in paired):
        rows = [one for one in paired if (one.trained, one.target) == (trained, target)]
        means = [np.mean([one.accuracy for one in rows if one.method == method]) for method in chosen]
        lines.append(f"| {trained} -> {target} | {' | '.join(f'{100 * mean:.1f}' for mean in means)} |")
    return lines


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a converted model folder")
    parser.add_argument("--testbed", type=Path, default=Path("../shared/testbed"), help="where the data sets lie")
    parser.add_argument("--sets", nargs="+", default=list(SETS), help="the sets to train on")
    parser.add_argument("--work", type=Path, default=Path("heads"), help="folder for images and runs")
    parser.add_argument("--output", type=Path, default=Path("heads.json"))
    given = parser.parse_args()
    clips = {"rendered": sz.load(MODEL_FOLDER)}
    found: list[Measured] = []
    for name in given.sets:
        clip = clips.get(name.split("/")[0]) or clips.setdefault("", sz.load(given.model))
        for shots in SHOTS:
            for seed in range(SEEDS):
                found += measure(clip, given, name, shots, seed)
        given.output.write_text(json.dumps([asdict(one) for one in found], indent=0) + "\n")
    print(format_tables(found))


if __name__ == "__main__":
    main()
