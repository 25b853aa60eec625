"""What run.json holds beside the configuration: how the run was begun, and what came out of it.

>>> Run.load("runs/photo-m-0").record.model.fingerprint  # doctest: +SKIP
>>> Run.load("runs/photo-m-0").results.test  # doctest: +SKIP
0.93
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from msgspec import Meta

from sharpzo_mlx.runs.json_record import Amount, Count, JsonRecord, Number, PathText, Share, Text
from sharpzo_mlx.runs.version_record import Version

Status: TypeAlias = Literal["running", "interrupted", "finished"]
# words for `sharpzo-mlx convert`: a name on the hub, and options that change the weights. An error repeats them for a
# shell, so nothing else passes.
SOURCE = (
    r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9_.][A-Za-z0-9_.-]{0,95}( --dtype (float32|float16|bfloat16))?"
    r"( --quantize [48]( --group-size (32|64|128))?( --quantize-vision)?)?"
)
Source: TypeAlias = Annotated[str, Meta(max_length=300, pattern=rf"\A{SOURCE}\Z")]
UNSAID = "not-sent"  # in place of a folder in a run on the hub
ImageRows: TypeAlias = tuple[tuple[PathText, Count], ...]  # (path relative to the dataset, label)


@dataclass(frozen=True)
class ModelRecord(JsonRecord):
    """The checkpoint that a run tunes.

    Attributes:
        folder: absolute path at the time of tuning.
        fingerprint: digest of its weights, configuration and tokenizer.
        source: of a run on the hub, whose `folder` is empty: the words behind `sharpzo-mlx convert` that make it.
    """

    folder: PathText
    fingerprint: Text
    source: Source | None = None


@dataclass(frozen=True)
class DrawnImages(JsonRecord):
    """The images that a run drew, by split.

    `val` is empty where no image was left for it; `test` is None where the dataset has no test images. `added` are
    images that the run was given later.
    """

    train: ImageRows
    val: ImageRows
    test: ImageRows | None = None
    added: ImageRows | None = None

    def labelled(self) -> ImageRows:
        """Return the images that the run learned from or chose by."""
        return (*self.train, *self.val, *(self.added or ()))

    def without_names(self) -> DrawnImages:
        """Return the same labels, of images that are not named."""
        splits = (self.train, self.val, self.test, self.added)
        train, val, test, added = (rows and _without_names(rows) for rows in splits)
        return DrawnImages(train or (), val or (), test, added)

    def by_split(self) -> dict[str, ImageRows]:
        """Return the splits that were drawn, by name."""
        splits = {"train": self.train, "val": self.val}
        return splits if self.test is None else {**splits, "test": self.test}


def _without_names(rows: ImageRows) -> ImageRows:
    return tuple((f"{UNSAID}/{number}", label) for number, (_, label) in enumerate(rows, 1))


@dataclass(frozen=True)
class RunRecord(JsonRecord):
    """How a run was begun, and where it stands.

    Attributes:
        status: "running" also after a kill; "interrupted" after Ctrl-C or an error; "finished" at its own end.
        model: the checkpoint.
        dataset: absolute path of the folder of images.
        shots: training images a class at most.
        class_names: names as prompts use them, K of them.
        class_folders: folder names of the classes, in the same order.
        images: the images drawn.
        versions: software that the numbers depend on, by name.
        content: digest of the training and validation images' content; None before they were encoded.
        zero_shot_val: validation accuracy before tuning, 0..1; None before the search began.
        templates: the templates whose mean is the zero-shot classifier; empty if it is the one template alone.
        version: which version of the run this is; None before something was added to it.
    """

    status: Status
    model: ModelRecord
    dataset: PathText
    shots: Count
    class_names: tuple[Text, ...]
    class_folders: tuple[PathText, ...]
    images: DrawnImages
    versions: dict[Text, Text]
    content: Text | None = None
    zero_shot_val: Share | None = None
    templates: tuple[Text, ...] = ()
    version: Version | None = None

    @classmethod
    def from_json(cls, content: object, name: str = "") -> RunRecord:
        """Make the record from plain values; each label must be that of a class."""
        record = super().from_json(content, name)
        classes = len(record.class_names)
        if len(record.class_folders) != classes:
            raise ValueError(f"class_folders has {len(record.class_folders)} entries, class_names {classes}")
        for split, rows in {**record.images.by_split(), "added": record.images.added or ()}.items():
            for place, (_, label) in enumerate(rows):
                if label >= classes:
                    raise ValueError(f"images.{split}[{place}] has label {label}, of {classes} classes")
        return record


@dataclass(frozen=True)
class HeadResult(JsonRecord):
    """What the head of a run is made of, and whether the search for words beside it was worth keeping.

    Attributes:
        kind: the head, as `--head` names it.
        text: share of the words.
        image: share of the closed-form classifier.
        named: share of the words in the metric of the closed-form classifier.
        words_kept: whether the words were tuned; else they are the plain ones.
        words_gain: fall of the loss by the tuned words on validation images that neither they nor the head had seen,
            in nats an image; None where no search was made.
        words_error: standard error of that.
    """

    kind: Text
    text: Number
    image: Number
    named: Number
    words_kept: bool
    words_gain: Number | None = None
    words_error: Number | None = None


@dataclass(frozen=True)
class RunResults(JsonRecord):
    """What a run reached, and what it cost; accuracies are 0..1.

    Attributes:
        zero_shot: accuracy before tuning; on the test images once the run is finished and where there are any, on the
            validation images otherwise.
        val: accuracy of the tuned prompt on the validation images; with a head that of the whole classifier on the
            labelled images, each judged by a head that was fitted without it (where the words were tuned too, on the
            validation images alone).
        test: the same on the test images; None before the end, or without test images.
        zero_shot_val: accuracy before tuning on the same images.
        queries: evaluations of the training loss.
        val_queries: evaluations on the validation images.
        seconds: time of the search.
        peak_memory_mb: largest memory of MLX's arrays, MiB.
        process_memory_mb: largest memory of the process, MiB.
        test_text: with a head: `test` of the words alone.
        head: with a head: what it is made of.
        cache_memory_mb: memory that MLX kept for later arrays, beside the peak, MiB; None in runs of older versions.
    """

    zero_shot: Share
    val: Share
    test: Share | None
    zero_shot_val: Share
    queries: Count
    val_queries: Count
    seconds: Amount
    peak_memory_mb: Amount
    process_memory_mb: Amount
    test_text: Share | None = None
    head: HeadResult | None = None
    cache_memory_mb: Amount | None = None

    @property
    def chosen_on(self) -> str:
        """Name the images that `val` is an accuracy on: "validation", or with a head "left-out images"."""
        return "validation" if self.head is None else "left-out images"
