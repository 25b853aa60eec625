"""Compare `add` with tuning anew on everything, and three ways to add a class by its name alone.

Each seed draws 16 training and 4 validation images a class, and the rest for the test. There are three additions:

- images: a run of 4 training images a class gets the other 12;
- classes: a run without some of the classes gets these with all their labelled images;
- names: the same run gets these classes by name alone.

A class without images has no Gaussian of its own. It can get one at the mean of all classes ("words alone"), or at a
mean that its words predict, which is what `add` does, or the same with half of the prediction's squared error made good
to it, as the error of a class mean is.

    python benchmarks/adding.py --model m --testbed ../shared/testbed --output adding.jsonl
    python benchmarks/adding.py --features ../shared/testbed/real-clip/caltech61.npz --output features.jsonl

Each result is a JSON line; what is in the output already is not measured again. Markdown tables are printed at the end.
Seconds are wall time with the features of all images in the cache. Accuracies are on test images, among all classes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import head_features
from accuracy import pool_images
from json_lines import append_lines, read_lines

import sharpzo_mlx as sz

import mlx.core as mx  # isort: skip  (after this package, which loads OpenBLAS)
import numpy as np

from sharpzo_mlx.adding.pipeline import add
from sharpzo_mlx.datasets.image_set import ImageSet
from sharpzo_mlx.datasets.splits import draw_split
from sharpzo_mlx.features.extract import Features, encode
from sharpzo_mlx.heads.fit import FittedHead, fit_head
from sharpzo_mlx.heads.named_classes import PENALTIES, add_named_classes, predict_means
from sharpzo_mlx.prompts.ensemble import template_features
from sharpzo_mlx.rng import generator_for
from sharpzo_mlx.tuning.pipeline import tune

SETS = {"pacs/photo": 2, "tiny-superclasses": 3, "caltech101": 10}  # and how many classes are added
OF_FEATURES = 10
SHOTS, FEW = 16, 4
SEEDS = 5
TEMPLATE = "a photo of a {}."
ALLOWED = 0.25  # half of the squared error, and a half of a squared distance
WAYS = ("words alone", "predicted mean", "predicted mean, error allowed")
Line = dict[str, Any]


@dataclass(frozen=True)
class Draw:
    """The images of one draw.

    Attributes:
        train, val, test: all classes' images.
        new: labels of the classes that are added.
    """

    train: Features
    val: Features
    test: Features
    new: np.ndarray

    @property
    def of_new(self) -> np.ndarray:
        """Which test images are of added classes."""
        return np.isin(self.test.labels, self.new)


def link_images(images: ImageSet | Features, rows: Sequence[int] | np.ndarray, folder: Path) -> None:
    """Make class folders with links to some images."""
    for row in rows:
        place = folder / images.folders[images.labels[row]]
        place.mkdir(parents=True, exist_ok=True)
        (place / images.paths[row].name).symlink_to(images.paths[row].resolve())


def take_few(labels: np.ndarray, count: int) -> np.ndarray:
    """Return the rows of the first images of each class."""
    return np.sort(np.concatenate([np.flatnonzero(labels == k)[:count] for k in np.unique(labels)]))


def measure(prompt: sz.Prompt, draw: Draw) -> dict[str, float]:
    """Return the accuracy on the test images of old and of new classes, and of all, whatever the order of classes."""
    places = np.array([prompt.folders.index(name) if name in prompt.folders else -1 for name in draw.test.folders])
    right = np.array(prompt.logits(draw.test.embeddings)).argmax(axis=1) == places[draw.test.labels]
    return by_kind(right, draw)


def by_kind(right: np.ndarray, draw: Draw) -> dict[str, float]:
    """Return the shares of right images."""
    new = draw.of_new
    return {"old": float(right[~new].mean()), "new": float(right[new].mean()), "all": float(right.mean())}


def timed(work: Callable[[], sz.Run]) -> tuple[sz.Run, float]:
    """Return a run and the seconds that it took."""
    began = time.monotonic()
    return work(), time.monotonic() - began


def measure_runs(clip: sz.Clip, name: str, draw: Draw, seed: int, work: Path) -> Iterator[Line]:
    """Measure the three additions beside tuning anew on everything."""
    config = sz.TuneConfig(shots=SHOTS, seed=seed)
    few = take_few(draw.train.labels, FEW)
    rest = np.setdiff1d(np.arange(len(draw.train.labels)), few)
    old = {part: ~np.isin(getattr(draw, part).labels, draw.new) for part in ("train", "val", "test")}
    for folder, train in (("whole", np.arange(len(draw.train.labels))), ("few", few)):
        link_images(draw.train, train, work / folder / "train")
        for part in ("val", "test"):
            images = getattr(draw, part)
            link_images(images, range(len(images.labels)), work / folder / part)
    link_images(draw.train, rest, work / "more images")
    for part in ("train", "val", "test"):
        images, mask = getattr(draw, part), old[part]
        link_images(images, np.flatnonzero(mask), work / "without" / part)
        if part != "test":
            link_images(images, np.flatnonzero(~mask), work / "more classes")
    names = [draw.train.class_names[label] for label in draw.new]

    def tuned(folder: str) -> tuple[sz.Run, float]:
        return timed(lambda: tune(clip, work / folder, config, output=work / f"run {folder}"))

    def added(run: sz.Run, **what: Any) -> tuple[sz.Run, float]:
        return timed(lambda: add(run, clip=clip, **what))

    whole, anew_seconds = tuned("whole")
    anew = {"anew": measure(whole.prompt, draw), "anew_seconds": anew_seconds}
    base, _ = tuned("few")
    before = measure(base.prompt, draw)
    run, seconds = added(base, folders=[work / "more images"])
    line = {"set": name, "seed": seed, **anew}
    yield {**line, "kind": "images", "before": before, "add": measure(run.prompt, draw), "seconds": seconds}
    base, _ = tuned("without")
    before = measure(base.prompt, draw)
    run, seconds = added(base, folders=[work / "more classes"])
    yield {**line, "kind": "classes", "before": before, "add": measure(run.prompt, draw), "seconds": seconds}
    sz.go_back(base)
    run, seconds = added(sz.Run.load(base.folder), classes=names)
    yield {**line, "kind": "names", "before": before, "add": measure(run.prompt, draw), "seconds": seconds}


def measure_ways(name: str, draw: Draw, words: mx.array, scale: float, seed: int) -> Line:
    """Measure the ways to add a class by name, and the head that has its images, all with plain words."""
    known = np.setdiff1d(np.arange(len(draw.test.folders)), draw.new)
    train, val = (_keep(part, known) for part in (draw.train, draw.val))
    fitted = fit_head(words[mx.array(known.astype(np.int32))], scale, train, val)
    predicted = add_named_classes(fitted, words, known.tolist())
    heads = {
        "words alone": add_named_classes(fitted, words, known.tolist(), penalties=PENALTIES[-1:]),
        "predicted mean": predicted,
        "predicted mean, error allowed": _allow_error(fitted, predicted, draw.new),
        "with its images": fit_head(words, scale, draw.train, draw.val),
    }
    plain = scale * draw.test.embeddings @ words.T
    found = {way: np.array(one.head.join(plain, draw.test.embeddings)).argmax(axis=1) for way, one in heads.items()}
    found["zero-shot"] = np.array(plain).argmax(axis=1)
    of_old = np.array(fitted.head.join(plain[:, mx.array(known.astype(np.int32))], draw.test.embeddings))
    found["before"] = known[of_old.argmax(axis=1)]
    ways = {way: by_kind(labels == draw.test.labels, draw) for way, labels in found.items()}
    return {"set": name, "seed": seed, "kind": "ways", "ways": ways}


def _keep(images: Features, known: np.ndarray) -> Features:
    """Return the images of some classes, which get labels of their own."""
    kept = images.take(np.flatnonzero(np.isin(images.labels, known)))
    names = tuple(images.class_names[label] for label in known)
    return replace(kept, labels=np.searchsorted(known, kept.labels).astype(np.int32), class_names=names, folders=names)


def _allow_error(fitted: FittedHead, named: FittedHead, new: np.ndarray) -> FittedHead:
    """Return a head whose classes without images get half of the mean squared error of a prediction made good."""
    gaussians, words, errors = fitted.gaussians, fitted.words, []
    for label in range(len(words)):
        others = np.arange(len(words)) != label
        guess = predict_means(words[others], gaussians.means[others], words[label : label + 1], gaussians.root)
        errors.append(float((((guess[0] - gaussians.means[label]) @ gaussians.root) ** 2).sum()))
    bias = np.array(named.head.bias)
    bias[new] += named.head.image_share * ALLOWED * np.mean(errors)
    return replace(named, head=replace(named.head, bias=mx.array(bias)))


def choose_new(classes: int, count: int, seed: int) -> np.ndarray:
    """Return the labels of the classes that a seed adds."""
    return np.sort(generator_for(seed, "added classes").permutation(classes)[:count])


def measure_testbed(given: argparse.Namespace, done: set[tuple[str, int]]) -> Iterator[Line]:
    """Measure every set and seed that is not done."""
    clip = sz.load(given.model)
    for name in given.sets:
        for seed in range(given.seeds):
            if (name, seed) in done:
                continue
            with tempfile.TemporaryDirectory() as scratch:
                split = draw_split(pool_images(given.testbed / name, Path(scratch) / "all"), shots=SHOTS, seed=seed)
                assert split.test is not None
                parts = [encode(clip, part) for part in (split.train, split.val, split.test)]
                draw = Draw(*parts, choose_new(len(split.train.folders), SETS[name], seed))
                yield from measure_runs(clip, name, draw, seed, Path(scratch))
                words = template_features(clip, (TEMPLATE,), split.train.class_names)
                yield measure_ways(name, draw, words, clip.logit_scale, seed)


def measure_features(path: Path, seeds: int, done: set[tuple[str, int]]) -> Iterator[Line]:
    """Measure the ways to add a class by name on stored features."""
    file = head_features.FeatureFile.read(path)
    if file.text is None:
        raise sz.UserError(f"{path}: has no words; name another file")
    for seed in range(seeds):
        if (file.name, seed) not in done:
            val = file.val.take(head_features.draw_rows(file.val.labels, FEW, seed=seed))
            draw = Draw(file.train[SHOTS], val, file.test, choose_new(len(file.test.folders), OF_FEATURES, seed))
            yield measure_ways(file.name, draw, file.text, head_features.LOGIT_SCALE, seed)


def format_tables(lines: Sequence[Line]) -> str:
    """Return the tables: means over the seeds in per cent."""
    rows = [
        "| set | added | before, old | add, old | new | all | anew, old | new | all | add, s | anew, s |",
        "|---" * 11 + "|",
    ]
    for name in dict.fromkeys(line["set"] for line in lines):
        for kind in ("images", "classes", "names"):
            if own := [line for line in lines if line["set"] == name and line["kind"] == kind]:
                places = [
                    ("before", "old"),
                    *((one, part) for one in ("add", "anew") for part in ("old", "new", "all")),
                ]
                cells = [f"{100 * np.mean([line[one][part] for line in own]):.1f}" for one, part in places]
                cells += [f"{np.mean([line[key] for line in own]):.1f}" for key in ("seconds", "anew_seconds")]
                rows.append(f"| {name} | {kind} | {' | '.join(cells)} |")
    shown = ("before", "zero-shot", *WAYS, "with its images")
    rows += ["", "| set | classes added by name | old | new | all |", "|---|---|---|---|---|"]
    for name in dict.fromkeys(line["set"] for line in lines if line["kind"] == "ways"):
        own = [line["ways"] for line in lines if line["set"] == name and line["kind"] == "ways"]
        for way in shown:
            cells = [f"{100 * np.mean([one[way][part] for one in own]):.1f}" for part in ("old", "new", "all")]
            rows.append(f"| {name} | {way} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a converted model folder")
    parser.add_argument("--testbed", type=Path, default=Path("../shared/testbed"), help="where the data sets lie")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS), help="data sets below the testbed")
    parser.add_argument("--features", type=Path, help="a file of stored features, in place of the testbed")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--output", type=Path, default=Path("adding.jsonl"))
    given = parser.parse_args()
    done = {(line["set"], line["seed"]) for line in read_lines(given.output) if line["kind"] == "ways"}
    found = measure_features(given.features, given.seeds, done) if given.features else measure_testbed(given, done)
    for line in found:
        append_lines(given.output, [line])
    print(format_tables(read_lines(given.output)))


if __name__ == "__main__":
    main()
