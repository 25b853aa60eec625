"""Write predictions as text: lines to read, CSV with a row a label, or JSON Lines with an object an image.

>>> print(STYLES["csv"].header, end="")
path,label,probability,error,rejected
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sharpzo_mlx.cli import wording

if TYPE_CHECKING:
    from sharpzo_mlx.evaluation.prediction import Prediction

CSV_COLUMNS = ("path", "label", "probability", "error", "rejected")


@dataclass(frozen=True)
class Style:
    """A way to write predictions: what stands at the beginning, and the lines of some predictions."""

    header: str
    write: Callable[[Iterable[Prediction]], str]


def as_record(prediction: Prediction) -> dict[str, Any]:
    """Return one image's labels for a script, the most probable first."""
    labels = [{"label": label, "probability": share} for label, share in prediction.labels]
    return {"path": str(prediction.path), "labels": labels, "error": prediction.error, "rejected": prediction.rejected}


def _as_lines(predictions: Iterable[Prediction]) -> str:
    return "".join(f"{_as_line(prediction)}\n" for prediction in predictions if prediction.labels)


def _as_line(prediction: Prediction) -> str:
    words = [f"{label} {wording.percent(share)}" for label, share in prediction.labels]
    answer = f"none of them ({words[0]})" if prediction.rejected else ", ".join(words)
    return wording.escape(f"{prediction.path}: {answer}")


def _as_csv(predictions: Iterable[Prediction]) -> str:
    text = io.StringIO()
    for prediction in predictions:
        words = (str(prediction.path), prediction.error or "", *dict(prediction.labels))
        if any("\r" in word for word in words):  # minimal quotes leave it bare, which no reader takes
            writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
        else:
            writer = csv.writer(text, lineterminator="\n")
        for label, share in prediction.labels:
            writer.writerow((prediction.path, label, f"{share:.6f}", "", int(prediction.rejected)))
        if prediction.error:
            writer.writerow((prediction.path, "", "", prediction.error, 0))
    return text.getvalue()


def _as_json_lines(predictions: Iterable[Prediction]) -> str:
    return "".join(f"{wording.as_json(as_record(prediction))}\n" for prediction in predictions)


STYLES = {
    "lines": Style("", _as_lines),
    "csv": Style(",".join(CSV_COLUMNS) + "\n", _as_csv),
    "jsonl": Style("", _as_json_lines),
}
