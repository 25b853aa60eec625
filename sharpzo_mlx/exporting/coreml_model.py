"""A classifier as a Core ML package: a picture, or an image feature, to a label, probabilities and "none of them".

| name | type | |
|---|---|---|
| `image` | image, RGB | resized and cropped |
| `feature` | float32 [1, D] | in place of `image` where the package has no image tower |
| `classLabel` | string | name of the most probable class |
| `classLabel_probs` | dictionary | probability of each name |
| `distance` | float32 [1] | of the image from the labelled ones; absent without a head |
| `rejected` | int32 [1] | 1: none of the classes; absent without a head |

An image input of Core ML has one factor for all channels, so rescaling and normalisation are in the program. With half
precision the image tower computes in float16; normalisation and classifier always compute in float32, because the
squares of the guard's distance need it.

>>> write_coreml(Path("photo.mlpackage"), record, tower, half=False)  # doctest: +SKIP
"""

from __future__ import annotations

import tempfile
import traceback
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from sharpzo_mlx.errors import UserError
from sharpzo_mlx.exporting.classifier import ClassifierRecord
from sharpzo_mlx.exporting.classifier_graph import classify, encode, normalise
from sharpzo_mlx.exporting.coreml_operations import CLASSIFIER, TOWER, CoreMLOperations
from sharpzo_mlx.exporting.coreml_tools import ct, mb, quiet
from sharpzo_mlx.exporting.operations import Value
from sharpzo_mlx.exporting.tower import Tower

LABEL, PROBABILITIES = "classLabel", "classLabel_probs"  # what Core ML itself calls them
ANSWERS = ("probabilities", "distance", "rejected")
WORDS = {
    "image": "RGB, resized and cropped as `preprocessing` in the metadata says",
    "feature": "image feature, of any length",
    LABEL: "name of the most probable class",
    PROBABILITIES: "probability of each class",
    "distance": "distance of the image from the labelled images",
    "rejected": "1 if the image is none of the classes",
}


# of the writer of weights, which says no more than that, and of what copies files into the package
DISK_ERRORS = ("[MIL", "filesystem error")


def write_coreml(path: Path, record: ClassifierRecord, tower: Tower | None, *, half: bool) -> None:
    """Write a classifier.

    Args:
        path: the package, whose name ends in .mlpackage; files may be left in its folder after an error.
        record: the classifier.
        tower: the image tower; None for a package that takes image features.
        half: whether the image tower computes in float16.

    Raises:
        UserError: the disk is full, of the package or of the system's temporary files.
    """
    try:
        _convert(path, record, tower, half=half)
    except RuntimeError as error:
        if not str(error).startswith(DISK_ERRORS):
            raise
        raise UserError(
            f"{path.name}: coremltools cannot write it; make space on its disk and in {tempfile.gettempdir()}, which "
            "holds the weights meanwhile"
        ) from error
    for file in path.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)  # one file has its owner's rights only


def _convert(path: Path, record: ClassifierRecord, tower: Tower | None, *, half: bool) -> None:
    given: dict[str, Any] = {}
    if tower is not None:
        given = {"inputs": [ct.ImageType(name="image", shape=(1, 3, *record.size), color_layout=ct.colorlayout.RGB)]}
    with quiet(), tempfile.TemporaryDirectory(dir=path.parent) as folder:
        try:
            model = ct.convert(
                _build(record, tower),
                source="milinternal",
                convert_to="mlprogram",
                minimum_deployment_target=ct.target.iOS17,
                compute_precision=_precision(half),
                classifier_config=ct.ClassifierConfig(name_labels(record), LABEL, "probabilities"),
                pass_pipeline=_passes(),
                skip_model_load=True,
                package_dir=str(Path(folder) / path.name),
                **given,
            )
        except BaseException as error:
            traceback.clear_frames(error.__traceback__)  # coremltools' own temporary folder goes with its variables
            raise
        _describe(model, record, "feature" if tower is None else "image RGB")
        model.save(str(path))


def name_labels(record: ClassifierRecord) -> list[str]:
    """Return the K labels: the names, with their folders where a name stands twice, as a dictionary needs them."""
    names = [_clean(name) for name in record.names]
    count = Counter(names)
    return [
        name if count[name] == 1 else f"{name} ({_clean(folder)})"
        for name, folder in zip(names, record.folders, strict=True)
    ]


def _build(record: ClassifierRecord, tower: Tower | None) -> Any:
    """Return the MIL program; the names of the functions' arguments are those of the inputs."""

    def from_image(image: Value) -> tuple[Value, ...]:
        assert tower is not None
        ops = CoreMLOperations()
        ops.part = CLASSIFIER  # float32 always
        pixels = normalise(ops, image, record.preprocessor, whole=255)
        ops.part = TOWER
        return _answer(ops, encode(ops, pixels, tower), record)

    def from_feature(feature: Value) -> tuple[Value, ...]:
        return _answer(CoreMLOperations(), feature, record)

    shape = (1, record.words.shape[1]) if tower is None else (1, 3, *record.size)
    build = mb.program(input_specs=[mb.TensorSpec(shape=shape)], opset_version=ct.target.iOS17)
    return build(from_feature if tower is None else from_image)


def _answer(ops: CoreMLOperations, feature: Value, record: ClassifierRecord) -> tuple[Value, ...]:
    ops.part = CLASSIFIER
    answer = classify(ops, feature, record)
    probabilities = ops.run("identity", x=answer.probabilities, name="probabilities")
    if record.head is None or answer.distance is None:
        return (probabilities,)
    distance = ops.run("reshape", x=answer.distance, shape=[1], name="distance")
    farthest = np.float32(min(record.head.farthest, float(np.finfo(np.float32).max)))
    rejected = ops.run("cast", x=ops.run("greater", x=distance, y=farthest), dtype="int32", name="rejected")
    return probabilities, distance, rejected


def _precision(half: bool) -> Any:
    if not half:
        return ct.precision.FLOAT32
    exact = (CLASSIFIER, *ANSWERS)  # what coremltools itself puts between others in the tower has other names
    return ct.transform.FP16ComputePrecision(op_selector=lambda operation: not operation.name.startswith(exact))


def _passes() -> Any:
    """Return coremltools' rewriting without one rule: a batch norm in place of the normalisation adds an epsilon."""
    passes = ct.PassPipeline.DEFAULT
    passes.remove_passes({"common::fuse_elementwise_to_batchnorm"})
    return passes


def _describe(model: Any, record: ClassifierRecord, takes: str) -> None:
    """Write what the package is into its metadata, where Xcode shows it."""
    model.author = "sharpzo-mlx"
    model.version = version("sharpzo-mlx")
    model.license = _clean(record.model.licence or "not named by the model's card")
    model.short_description = _clean(f"Tells {len(record.names)} classes apart; image tower of {record.model.name}.")
    model.user_defined_metadata.update({name: _clean(text) for name, text in record.to_metadata(takes).items()})
    for features in (model.input_description, model.output_description):
        for name in features:
            features[name] = WORDS[name]


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
