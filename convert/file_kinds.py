"""Tell by its name and first bytes what a file is that was handed in as weights and is none, or has another's ending.

>>> describe_content("weights.pt", b"\\x40\\0\\0\\0\\0\\0\\0\\0{\\"a\\": {}}")
'it is a safetensors file by its content: rename it, so that it ends in .safetensors'
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path, PurePath

from sharpzo_mlx.errors import UserError, one_line, why
from sharpzo_mlx.files import open_regular
from sharpzo_mlx.reading import IS_POINTER, POINTER

BLOBS = "blobs"  # the folder of the hub's cache in which files have the names of their contents
HEAD = 512  # bytes that are looked at
ENDINGS = (".safetensors", ".npz", ".bin", ".pt", ".pth", ".ckpt")
PAGES = (b"<!doctype", b"<html", b"<?xml")
ZIP, PICKLE = b"PK\3\4", b"\x80"
FORMATS = {  # ending -> whose weights, of no reader of ours
    ".h5": "TensorFlow's",
    ".msgpack": "Flax's",
    ".onnx": "ONNX's",
    ".gguf": "llama.cpp's",
    ".tflite": "TensorFlow's",
    ".mlpackage": "Core ML's",
    ".distcp": "torch's distributed training's",
}
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".xz", ".zst")
READ = "weights are .safetensors, .npz, or what torch.save has written (.pt, .bin)"


def refuse_other_files(path: Path) -> None:
    """Refuse a file that cannot be weights, and weights whose ending is that of another format.

    Raises:
        UserError: it is; the message names the file and says what to do.
    """
    try:
        with open_regular(path) as file:
            head = file.read(HEAD)
    except OSError as error:
        gone = path.is_symlink() and not path.exists()
        reason = "a link to a file that is not there" if gone else why(error)
        raise UserError(f"{path}: cannot be read ({reason}); download it again, or check its permissions") from None
    if words := describe_content(path.name, head):
        if path.parent.name == BLOBS and not path.suffix:
            words = f"it is in the hub's cache under no name: give the folder in {path.parent.parent / 'snapshots'}"
        raise UserError(f"{path}: {words}")


def describe_content(name: str, head: bytes) -> str | None:
    """Return what a file is in place of weights of its ending, and what to do, or None.

    Args:
        name: the file's name.
        head: its first bytes.
    """
    ending = PurePath(name).suffix.lower()
    if not head:
        return "it is empty; download the file again"
    if head.startswith(POINTER):
        return f"{IS_POINTER}; run that in its folder, or download the file"
    if ending in FORMATS:
        return f"it is {FORMATS[ending]}, which is not read; {READ}"
    if ending in ARCHIVES:
        return "it is an archive: unpack it, and give the folder inside"
    if head.lstrip().lower().startswith(PAGES):
        return "it is a web page, no weights (a failed download?); download the file again"
    tensors = head[4:9] == bytes(4) + b"{"  # the upper half of the header's length, and its beginning
    torch = head.startswith((ZIP, PICKLE)) and not tensors
    if ending == ".safetensors" and torch:
        return "it was written by torch.save: rename it, so that it ends in .bin"
    if ending != ".safetensors" and tensors:
        return "it is a safetensors file by its content: rename it, so that it ends in .safetensors"
    return None if tensors or torch or ending in ENDINGS else f"it holds no weights; {READ}"


def name_formats(names: Collection[str]) -> str:
    """Return in words which weights of other libraries a folder has, or an empty text."""
    found = [name for name in sorted(names) if PurePath(name).suffix.lower() in FORMATS]
    return f" ({one_line(found[0])} is {FORMATS[PurePath(found[0]).suffix.lower()]})" if found else ""
