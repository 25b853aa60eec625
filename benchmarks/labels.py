"""Measure what lists of doubtful labels and of images to label next are worth, and what near-copies are found.

check: a tenth (or `--rate`) of the labels of each set is changed at random; precision is the share of the listed labels
that were changed, recall the share of the changed ones that are listed. suggest: a run begins with two labelled images
of each class, and gets more in batches of two times the number of classes, which one of several rules picks; a third of
the images is for the test. Full accuracy is that with all labels. copies: pictures are recompressed, resized, cropped
and so on, and looked for beside all others.

    python benchmarks/labels.py --model m --testbed ../shared/testbed --output labels.jsonl
    python benchmarks/labels.py --model m --testbed ../shared/testbed --features oxford_pets.npz --output labels.jsonl

Files of features are those of heads.py. Each result is a JSON line; what is in the output already is not measured
again. Markdown tables are printed at the end.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accuracy import SETS
from head_features import FeatureFile
from json_lines import append_lines, read_lines
from label_tables import format_tables

import sharpzo_mlx as sz

import mlx.core as mx  # isort: skip  (after this package, which loads OpenBLAS)
import numpy as np
from PIL import Image

from sharpzo_mlx.datasets.image_set import ImageSet
from sharpzo_mlx.datasets.templates import PLAIN
from sharpzo_mlx.features.extract import Features, encode
from sharpzo_mlx.heads.fit import fit_head
from sharpzo_mlx.prompts.ensemble import template_features
from sharpzo_mlx.review.covering import choose_covering
from sharpzo_mlx.review.label_check import find_wrong
from sharpzo_mlx.review.labelled_folder import read_labelled
from sharpzo_mlx.review.left_out import judge_left_out
from sharpzo_mlx.review.suggestions import measure_uncertainty
from sharpzo_mlx.review.twins import find_twins
from sharpzo_mlx.rng import generator_for

ODDS = (10.0, 30.0, 100.0)
TOPS = (0.02, 0.05, 0.1, 0.2)  # shares of all labels, the most doubtful first
START, BATCH = 2, 2  # images a class: labelled at first, and added at a time
ROUNDS = 12
RULES = ("random", "uncertain", "k-centre", "covering", "all equally")
CHANGED = 60  # pictures that are copied
Line = dict[str, Any]


@dataclass(frozen=True)
class Set:
    """Encoded images with the class features of the plain words."""

    name: str
    images: Features
    words: mx.array
    scale: float


def read_sets(given: argparse.Namespace, clip: sz.Clip) -> Iterator[Set]:
    """Yield the sets of the testbed and the files of features."""
    for name in SETS:
        images = encode(clip, read_labelled(given.testbed / name).images)
        yield Set(name, images, template_features(clip, (PLAIN,), images.class_names), clip.logit_scale)
    for path in given.features:
        file = FeatureFile.read(path)
        both = mx.concatenate([file.val.embeddings, file.test.embeddings])
        labels = np.concatenate([file.val.labels, file.test.labels])
        images = replace(file.val, embeddings=both, labels=labels, paths=tuple(map(Path, map(str, range(len(labels))))))
        words = mx.zeros((len(file.val.class_names), both.shape[1])) if file.text is None else file.text
        yield Set(file.name, images, words, 100.0)


def change_labels(labels: np.ndarray, classes: int, rate: float, rng: np.random.Generator) -> np.ndarray:
    """Return labels of which a share has become another class; each class keeps two images that are its own."""
    order = rng.permutation(len(labels))
    kept = np.concatenate([order[labels[order] == k][:2] for k in range(classes)])
    rows = order[~np.isin(order, kept)][: round(rate * len(labels))]
    changed = labels.copy()
    changed[rows] = (labels[rows] + rng.integers(1, classes, len(rows))) % classes
    return changed


def measure_check(one: Set, rate: float, seed: int) -> Line:
    """Change labels, and count which of the listed ones were changed."""
    right, classes = one.images.labels, len(one.images.class_names)
    labels = change_labels(right, classes, rate, generator_for(seed, "labels", one.name))
    found = judge_left_out(one.words, one.scale, replace(one.images, labels=labels))
    shares, wrong = found.probabilities, labels != right
    doubt = np.argsort(shares[np.arange(len(labels)), labels], kind="stable")
    confident = np.array([shares[labels == k, k].mean() for k in range(classes)])  # Northcutt et al., eq. 2
    above = np.where(shares >= confident, shares, 0)
    lists = {f"odds {odds:g}": find_wrong(shares, labels, odds) for odds in ODDS}
    lists |= {f"first {100 * top:g} %": doubt[: round(top * len(labels))] for top in TOPS}
    lists["another is likelier"] = np.flatnonzero(shares.argmax(axis=1) != labels)
    lists["confident learning"] = np.flatnonzero((above.argmax(axis=1) != labels) & (above.max(axis=1) > 0))
    figures = {}
    for name, rows in lists.items():
        hits = rows[wrong[rows]]
        fixed = float((shares[hits].argmax(axis=1) == right[hits]).mean()) if len(hits) else float("nan")
        figures[name] = (len(rows) / len(labels), len(hits) / max(len(rows), 1), len(hits) / wrong.sum(), fixed)
    return {"kind": "check", "set": one.name, "rate": rate, "seed": seed, "agrees": found.accuracy, "lists": figures}


def pick(rule: str, x: np.ndarray, shares: np.ndarray, known: np.ndarray, count: int, rng: np.random.Generator) -> Any:
    """Return the rows that a rule labels next."""
    uncertainty = measure_uncertainty(shares)
    if rule == "random":
        return rng.choice(len(x), count, replace=False)
    if rule == "uncertain":
        return np.argsort(-uncertainty, kind="stable")[:count]
    if rule == "k-centre":
        return pick_centres(x, uncertainty, known, count)
    weights = uncertainty if rule == "covering" else np.ones(len(x))
    return [choice.row for choice in choose_covering(x, weights, known, count)]


def pick_centres(x: np.ndarray, weights: np.ndarray, known: np.ndarray, count: int) -> list[int]:
    """Return the rows farthest from all that is known or picked, by distance squared times uncertainty."""
    apart = np.min([((x - row) ** 2).sum(axis=1) for row in known], axis=0)
    rows: list[int] = []
    for _ in range(count):
        rows.append(int((apart * weights).argmax()))
        apart = np.minimum(apart, ((x - x[rows[-1]]) ** 2).sum(axis=1))
    return rows


def classify(one: Set, rows: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Fit the head to some images; return what gives the probabilities of others."""
    train = one.images.take(rows)
    head = fit_head(one.words, one.scale, train, train.take([])).head

    def shares(others: np.ndarray) -> np.ndarray:
        x = one.images.take(others).embeddings
        return np.array(mx.softmax(head.join(one.scale * (x @ one.words.T), x), axis=-1, precise=True))

    return shares


def measure_suggest(one: Set, rule: str, seed: int) -> Line:
    """Label batch by batch, and measure the accuracy after each."""
    labels, classes = one.images.labels, len(one.images.class_names)
    rng, x = generator_for(seed, "suggest", one.name), np.array(one.images.embeddings)
    order = rng.permutation(len(labels))
    test, pool = order[: len(order) // 3], order[len(order) // 3 :]
    labelled = np.concatenate([pool[labels[pool] == k][:START] for k in range(classes)])
    rest, accuracies, counts = np.setdiff1d(pool, labelled), [], []
    full = float((classify(one, pool)(test).argmax(axis=1) == labels[test]).mean())
    for _ in range(ROUNDS + 1):
        shares = classify(one, labelled)
        accuracies.append(float((shares(test).argmax(axis=1) == labels[test]).mean()))
        counts.append(len(labelled))
        if len(rest) < BATCH * classes:
            break
        picked = rest[pick(rule, x[rest], shares(rest), x[labelled], BATCH * classes, rng)]
        labelled, rest = np.concatenate([labelled, picked]), np.setdiff1d(rest, picked)
    found = {"counts": counts, "accuracies": accuracies, "full": full, "all": len(pool)}
    return {"kind": "suggest", "set": one.name, "rule": rule, "seed": seed, **found}


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "recompressed": lambda image: image,
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS),
    "brighter by 15 %": lambda image: image.point(lambda value: min(255, int(1.15 * value))),
    "cropped by 5 %": lambda image: image.crop(_inside(image, 0.05)),
    "cropped by 15 %": lambda image: image.crop(_inside(image, 0.15)),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}


def _inside(image: Image.Image, part: float) -> tuple[int, int, int, int]:
    across, down = round(image.width * part / 2), round(image.height * part / 2)
    return across, down, image.width - across, image.height - down


def measure_copies(one: Set, clip: sz.Clip, folder: Path) -> Iterator[Line]:
    """Count the copies that are found, and the pairs among the pictures themselves."""
    x, paths = np.array(one.images.embeddings), one.images.paths
    yield {"kind": "copies", "set": one.name, "copy": "none", "pairs": len(find_twins(x, paths)), "images": len(x)}
    rows = generator_for(0, "copies", one.name).choice(len(x), CHANGED, replace=False)
    for name, change in COPIES.items():
        copies = []
        for row in rows:
            with Image.open(paths[row]) as image:
                copies.append(folder / f"{one.name.replace('/', '-')}-{row}-{name[:3]}{name[-4]}.jpg")
                change(image.convert("RGB")).save(copies[-1], quality=60 if name == "recompressed" else 90)
        added = np.array(encode(clip, ImageSet(tuple(copies), (0,) * CHANGED, ("x",), ("x",)), cache=False).embeddings)
        both, own = np.concatenate([x, added]), dict(enumerate(rows.tolist(), start=len(x)))
        twins = find_twins(both, (*paths, *copies), lambda row, other, own=own: own.get(row) == other)  # type: ignore[misc]
        hits = sum(own.get(twin.row) == twin.other for twin in twins)
        yield {"kind": "copies", "set": one.name, "copy": name, "found": hits / CHANGED}


def measure(given: argparse.Namespace, clip: sz.Clip, folder: Path) -> Iterator[Line]:
    """Measure everything that is not done."""
    done = {
        tuple(str(line.get(key)) for key in ("kind", "set", "rate", "rule", "seed"))
        for line in read_lines(given.output)
    }
    for one in read_sets(given, clip):
        if one.name in SETS and ("copies", one.name, "None", "None", "None") not in done:
            yield from measure_copies(one, clip, folder)
        for seed in range(given.seeds):
            for rate in given.rates:
                if ("check", one.name, str(rate), "None", str(seed)) not in done:
                    yield measure_check(one, rate, seed)
            for rule in given.rules if one.name != "caltech101" else ():
                if ("suggest", one.name, "None", rule, str(seed)) not in done:
                    yield measure_suggest(one, rule, seed)


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--testbed", type=Path, required=True)
    parser.add_argument("--features", type=Path, nargs="*", default=[])
    parser.add_argument("--rates", type=float, nargs="*", default=[0.1, 0.02])
    parser.add_argument("--rules", nargs="*", choices=RULES, default=RULES)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("labels.jsonl"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for line in measure(given, sz.load(given.model), Path(folder)):
            append_lines(given.output, [line])
    print(format_tables(read_lines(given.output)))


if __name__ == "__main__":
    main()
