"""The records of a tokenizer's files, and the reader that checks a file against its record.

A file may hold more than its record names. A field of another kind is an error with the file and the field, before
anything is made of the file.

>>> read_record(Path("m/tokenizer.json"), TokenizerFile).model.type  # doctest: +SKIP
'BPE'
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from sharpzo_mlx.errors import UserError
from sharpzo_mlx.reading import read_text, reason

T = TypeVar("T")


class BPEModel(msgspec.Struct):
    """The entry `model` of a `tokenizer.json`; older files write a merge as "a b", newer ones as ["a", "b"]."""

    vocab: dict[str, int]
    merges: list[str | tuple[str, str]]
    type: str | None = None
    end_of_word_suffix: str | None = None


class AddedToken(msgspec.Struct):
    """A token that is found in a text before it is split."""

    content: str
    id: int
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False
    special: bool = False


class Ends(msgspec.Struct):
    """The entry `post_processor`: the start and the end token with their ids."""

    cls: tuple[str, int] | None = None
    sep: tuple[str, int] | None = None


class Padding(msgspec.Struct):
    """The entry `padding`."""

    pad_token: str | None = None


class TokenizerFile(msgspec.Struct):
    """A `tokenizer.json`."""

    model: BPEModel | None = None
    added_tokens: list[AddedToken] = []
    post_processor: Ends | None = None
    padding: Padding | None = None


class SpecialToken(msgspec.Struct):
    """A special token that is described, not only named."""

    content: str | None = None


class SpecialTokens(msgspec.Struct):
    """A `special_tokens_map.json` or a `tokenizer_config.json`."""

    bos_token: str | SpecialToken | None = None
    eos_token: str | SpecialToken | None = None
    pad_token: str | SpecialToken | None = None
    unk_token: str | SpecialToken | None = None
    model_max_length: int | float | None = None


class TextSizes(msgspec.Struct):
    """What a tokenizer takes from the text tower's part of a `config.json`."""

    vocab_size: int | None = None
    max_position_embeddings: int | None = None


class ModelSizes(msgspec.Struct):
    """A `config.json` as far as a tokenizer reads it."""

    text_config: TextSizes | None = None


def read_record(path: Path, kind: type[T]) -> T:
    """Read a JSON file and check it against its record.

    Args:
        path: the file, UTF-8.
        kind: the record, or another type such as `dict[str, int]`.

    Raises:
        UserError: the file cannot be read, is no JSON, or a field is of another kind.
    """
    try:
        return _decode(read_text(path), kind)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be used ({reason(error)}); download or convert it again") from error


def _decode(text: str, kind: type[T]) -> T:
    try:
        decoded: T = msgspec.json.decode(text, type=kind)
        return decoded
    except RecursionError:
        raise ValueError("no JSON that can be read: nested too deep") from None
    except msgspec.MsgspecError as error:  # some are no ValueError
        raise ValueError(str(error)) from None
