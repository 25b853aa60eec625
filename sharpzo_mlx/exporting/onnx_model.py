"""A classifier as one ONNX file: pictures, or image features, to labels, probabilities and "none of them".

| name | type | shape | |
|---|---|---|---|
| `image` | uint8, or float32 from 0 to 1 | [N, H, W, 3], or [N, 3, H, W] | resized and cropped RGB |
| `feature` | float32 | [N, D] | in place of `image` where the file has no image tower |
| `label` | int64 | [N] | place of the most probable class |
| `name` | string | [N] | its name |
| `probabilities` | float32 | [N, K] | |
| `rejected` | bool | [N] | none of the classes; absent without a head |

The metadata holds what `ClassifierRecord.to_json` returns, each value as JSON under its name. Weights beyond two
gigabytes, which one file cannot hold, lie beside it in `NAME.data`.

>>> write_onnx(Path("photo.onnx"), record, tower, OnnxForm())  # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from sharpzo_mlx.exporting.classifier import ClassifierRecord
from sharpzo_mlx.exporting.classifier_graph import classify, encode, normalise
from sharpzo_mlx.exporting.onnx_operations import OPERATORS, OnnxOperations
from sharpzo_mlx.exporting.tower import Tower

FILE_FORMAT = 8  # ONNX's version of the file, the first with this operator set
MOST_INSIDE = 1_900_000_000  # bytes of weights in the file itself; protocol buffers end at 2^31
SMALLEST_OUTSIDE = 1024  # bytes of an array that lies beside the file
ALIGNMENT = 4096  # bytes, so that a runtime can map the arrays
TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "int64": TensorProto.INT64}


@dataclass(frozen=True)
class OnnxForm:
    """What the file takes and how it stores weights.

    Attributes:
        half: matrices and kernels are stored as float16.
        floats: pictures are float32, channels first, from 0 to 1; else bytes, channels last.
    """

    half: bool = False
    floats: bool = False


def write_onnx(path: Path, record: ClassifierRecord, tower: Tower | None, form: OnnxForm) -> list[Path]:
    """Write a classifier.

    Args:
        path: the file, which must be in a folder where files may be left behind after an error.
        record: the classifier.
        tower: the image tower; None for a file that takes image features.
        form: what it takes and how it stores weights.

    Returns:
        The files that were written: the graph, and its weights where one file cannot hold them.
    """
    ops = OnnxOperations(form.half)
    given, features = _read_features(ops, record) if tower is None else _read_images(ops, record, tower, form)
    answers = _write_answers(ops, features, record)
    outside = path.with_name(f"{path.name}.data")
    total = sum(array.nbytes for array in ops.constants.values())
    tensors = _store(ops, outside if total > MOST_INSIDE else None)
    tensors.append(helper.make_tensor("names", TensorProto.STRING, [len(record.names)], _encoded(record.names)))
    graph = helper.make_graph(ops.nodes, "classifier", [given], answers, tensors)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPERATORS)], producer_name="sharpzo-mlx", ir_version=FILE_FORMAT
    )
    takes = "feature" if tower is None else "float NCHW 0..1" if form.floats else "uint8 NHWC"
    helper.set_model_props(model, record.to_metadata(takes))
    path.write_bytes(model.SerializeToString())
    return [path, outside] if total > MOST_INSIDE else [path]


def _read_features(ops: OnnxOperations, record: ClassifierRecord) -> tuple[onnx.ValueInfoProto, str]:
    shape = ["N", record.words.shape[1]]
    return helper.make_tensor_value_info("feature", TensorProto.FLOAT, shape), "feature"


def _read_images(
    ops: OnnxOperations, record: ClassifierRecord, tower: Tower, form: OnnxForm
) -> tuple[onnx.ValueInfoProto, str]:
    height, width = record.size
    if form.floats:
        given = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, height, width])
        pixels = normalise(ops, "image", record.preprocessor, whole=1)
    else:
        given = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", height, width, 3])
        levels = ops.transpose(ops.run("Cast", "image", to=TensorProto.FLOAT), (0, 3, 1, 2))
        pixels = normalise(ops, levels, record.preprocessor, whole=255)
    return given, encode(ops, pixels, tower)


def _write_answers(ops: OnnxOperations, features: str, record: ClassifierRecord) -> list[onnx.ValueInfoProto]:
    answer = classify(ops, features, record)
    ops.run("Identity", answer.probabilities, name="probabilities")
    ops.run("ArgMax", "probabilities", name="label", axis=-1, keepdims=0)
    ops.run("Gather", "names", "label", name="name", axis=0)
    answers = [
        helper.make_tensor_value_info("label", TensorProto.INT64, ["N"]),
        helper.make_tensor_value_info("name", TensorProto.STRING, ["N"]),
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", len(record.names)]),
    ]
    if record.head is not None and answer.distance is not None:
        distance = ops.reshape(answer.distance, (-1,))
        ops.run("Greater", distance, ops.constant(np.array(record.head.farthest, np.float32)), name="rejected")
        answers.append(helper.make_tensor_value_info("rejected", TensorProto.BOOL, ["N"]))
    return answers


def _encoded(names: tuple[str, ...]) -> list[bytes]:
    return [name.encode("utf-8", "replace") for name in names]


def _store(ops: OnnxOperations, outside: Path | None) -> list[onnx.TensorProto]:
    """Return the constants as tensors; the large ones go to a file of their own if there is one."""
    if outside is None:
        return [_make_tensor(name, array, inside=True) for name, array in ops.constants.items()]
    tensors = []
    with outside.open("wb") as file:
        for name, array in ops.constants.items():
            tensor = _make_tensor(name, array, inside=array.nbytes < SMALLEST_OUTSIDE)
            if array.nbytes >= SMALLEST_OUTSIDE:
                file.seek(-(-file.tell() // ALIGNMENT) * ALIGNMENT)
                place = {"location": outside.name, "offset": file.tell(), "length": array.nbytes}
                for key, value in place.items():
                    tensor.external_data.add(key=key, value=str(value))
                tensor.data_location = TensorProto.EXTERNAL
                file.write(array.tobytes())
            tensors.append(tensor)
    return tensors


def _make_tensor(name: str, array: np.ndarray, *, inside: bool) -> onnx.TensorProto:
    """Return an array as a tensor, without its numbers unless they stand in it; they are little endian, as here."""
    tensor = TensorProto(name=name, data_type=TYPES[str(array.dtype)], dims=array.shape)
    if inside:
        tensor.raw_data = array.tobytes()
    return tensor
