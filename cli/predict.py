"""`sharpzo-mlx predict RUN IMAGE...`: prints the most probable labels of each image, with their probabilities.

Prints a line an image, or `--json`, or `--csv` with a row a label. With `--reject` an image unlike the labelled ones is
none of the classes; with `--multi-label` each label of a SigLIP has a probability of its own. An image that cannot be
read is named on stderr (and in the JSON and CSV) and does not stop the others.

>>> sharpzo-mlx predict runs/pets-clip-0 a.jpg b.png --top 3  # doctest: +SKIP
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sharpzo_mlx.cli import wording
from sharpzo_mlx.cli.options import PATH, at_most_one
from sharpzo_mlx.errors import UserError

if TYPE_CHECKING:
    from sharpzo_mlx.evaluation.prediction import Prediction

REJECT_HELP = (
    "Say `none of them` of images unlike the labelled ones; about this share of the labelled kind is turned away too."
)
MULTI_LABEL_HELP = "All labels likelier than not, each by itself; --top does not count then. SigLIP models only."
COVERAGE_HELP = "Labels per image: as many as needed to hold the right one this often; --top does not count then."


@click.command("predict")
@click.argument("run_folder", metavar="RUN", type=PATH)
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=PATH)
@click.option("--top", default=1, show_default=True, type=click.IntRange(min=1), help="Labels per image.")
@click.option("--reject", type=float, metavar="RATE", help=REJECT_HELP)
@click.option("--set-coverage", "coverage", type=float, metavar="SHARE", help=COVERAGE_HELP)
@click.option("--multi-label", is_flag=True, help=MULTI_LABEL_HELP)
@click.option("--model", type=PATH, help="Model folder, if it has moved since tuning.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
@click.option("--csv", "as_csv", is_flag=True, help="Print path,label,probability,error,rejected on stdout.")
def predict_command(
    run_folder: Path,
    images: tuple[Path, ...],
    *,
    top: int,
    reject: float | None,
    coverage: float | None,
    multi_label: bool,
    model: Path | None,
    as_json: bool,
    as_csv: bool,
) -> None:
    """Label each IMAGE with the run RUN."""
    from sharpzo_mlx.clip import handle
    from sharpzo_mlx.evaluation import prediction
    from sharpzo_mlx.runs import run

    style = at_most_one(json=as_json, csv=as_csv)
    clip = None if model is None else handle.load(model)
    found = run.Run.load(run_folder)
    predictions = prediction.predict(
        found, list(images), top=top, clip=clip, reject=reject, coverage=coverage, multi_label=multi_label
    )
    {"json": _print_json, "csv": _print_csv}.get(style or "", _print_lines)(predictions)
    for one in predictions:
        if one.error:
            click.echo(wording.escape(f"note: {one.path}: {one.error}"), err=True)
    if all(one.error for one in predictions):
        raise UserError("no image could be read: give image files (JPEG, PNG, WebP, GIF, TIFF, BMP, HEIC, AVIF)")


def as_record(prediction: Prediction) -> dict[str, Any]:
    """Return one image's labels for a script, the most probable first."""
    labels = [{"label": label, "probability": share} for label, share in prediction.labels]
    return {"path": str(prediction.path), "labels": labels, "error": prediction.error, "rejected": prediction.rejected}


def _print_lines(predictions: Sequence[Prediction]) -> None:
    for prediction in predictions:
        words = [f"{label} {wording.percent(share)}" for label, share in prediction.labels]
        if words:
            answer = f"none of them ({words[0]})" if prediction.rejected else ", ".join(words)
            click.echo(wording.escape(f"{prediction.path}: {answer}"))


def _print_json(predictions: Sequence[Prediction]) -> None:
    wording.echo_json({"predictions": [as_record(prediction) for prediction in predictions]})


def _print_csv(predictions: Sequence[Prediction]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("path", "label", "probability", "error", "rejected"))
    for prediction in predictions:
        for label, share in prediction.labels:
            writer.writerow((prediction.path, label, f"{share:.6f}", "", int(prediction.rejected)))
        if prediction.error:
            writer.writerow((prediction.path, "", "", prediction.error, 0))
