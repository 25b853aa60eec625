"""Read a checkpoint's vocabulary: its tokens, merges and special tokens.

`tokenizer.json` holds everything in one file; older checkpoints have `vocab.json` and `merges.txt`, with the special
tokens in `tokenizer_config.json` or `special_tokens_map.json`. A special token that no file names is CLIP's own.
OpenAI's archives and open_clip's files come without a vocabulary; `clip_vocabulary` gives CLIP's own from its list of
merges, which is part of OpenAI's MIT-licensed release and stored here.

>>> read_vocabulary(Path("m")).context_length  # doctest: +SKIP
77
"""

from __future__ import annotations

import bz2
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from sharpzo_mlx.errors import UserError

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
CONTEXT_LENGTH = 77
END_OF_WORD = "</w>"


@dataclass(frozen=True)
class Vocabulary:
    """The tokens, merges and special tokens of a tokenizer.

    Attributes:
        tokens: token -> its id.
        merges: pairs of tokens; earlier pairs merge first.
        bos, eos, pad, unk: the special tokens, all of them in `tokens`.
        added: tokens that are found in a text before it is split; arguments of `tokenizers.AddedToken`.
        context_length: the most tokens that one text may have.
    """

    tokens: dict[str, int]
    merges: tuple[tuple[str, str], ...]
    bos: str
    eos: str
    pad: str
    unk: str
    added: tuple[Mapping[str, Any], ...]
    context_length: int


def read_vocabulary(folder: Path) -> Vocabulary:
    """Read the vocabulary of a model folder.

    Args:
        folder: a folder with tokenizer.json, or with vocab.json and merges.txt.

    Raises:
        UserError: the files are missing, or hold no vocabulary of CLIP's kind.
    """
    if (whole := folder / "tokenizer.json").is_file():
        described = read_json(whole)
        tokens, merges = _from_tokenizer_json(whole, described)
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        described = {}
        tokens, merges = read_json(folder / "vocab.json"), _read_merges(folder / "merges.txt")
    else:
        raise UserError(f"{folder}: no tokenizer.json, nor vocab.json and merges.txt; convert the checkpoint again")
    names = _special_names(folder, described)
    added = tuple(_added_token(token) for token in described.get("added_tokens", ()))
    tokens = tokens | {token["content"]: token["id"] for token in described.get("added_tokens", ())}
    for role, name in names.items():
        if name not in tokens:
            raise UserError(f"{folder}: the {role} token {name!r} is not in the vocabulary; it is no CLIP tokenizer")
    specials = tuple(_added_token({"content": name, "special": True}) for name in dict.fromkeys(names.values()))
    return Vocabulary(tokens, merges, **names, added=added or specials, context_length=_context_length(folder))


def clip_vocabulary(*, padding: str = EOS) -> Vocabulary:
    """Return CLIP's own vocabulary of 49 408 tokens.

    Args:
        padding: the token that fills the rows of a batch: EOS in Hugging Face's tokenizer, "!" (id 0) in OpenAI's and
            open_clip's. It makes a difference only to towers without a causal mask.
    """
    packed = files("sharpzo_mlx.clip").joinpath("merges.txt.bz2").read_bytes()
    merges = _merges(bz2.decompress(packed).decode("utf-8"))
    letters = _byte_letters()
    words = (*letters, *(letter + END_OF_WORD for letter in letters), *(left + right for left, right in merges))
    tokens = {word: number for number, word in enumerate((*words, BOS, EOS))}
    added = tuple(_added_token({"content": name, "special": True}) for name in (BOS, EOS))
    names = {"bos": BOS, "eos": EOS, "pad": padding, "unk": EOS}
    return Vocabulary(tokens, merges, **names, added=added, context_length=CONTEXT_LENGTH)


def _byte_letters() -> list[str]:
    """Return the letter that stands for each byte: its own where that is printable, else one from U+0100 on."""
    printable = (*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1))
    return [chr(code) for code in (*printable, *range(256, 512 - len(printable)))]


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        UserError: the file is missing, or holds no JSON object.
    """
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give a folder that `sharpzo-mlx convert` has made") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}); convert the checkpoint again") from error
    if not isinstance(read, dict):
        raise UserError(f"{path}: holds no object of named values; convert the checkpoint again")
    return read


def _from_tokenizer_json(path: Path, read: Mapping[str, Any]) -> tuple[dict[str, int], tuple[tuple[str, str], ...]]:
    model = read.get("model") or {}
    if model.get("type", "BPE") != "BPE" or model.get("end_of_word_suffix") != END_OF_WORD:
        raise UserError(f"{path}: not CLIP's byte-pair tokenizer; give a CLIP checkpoint")
    try:
        # older files write a merge as "a b", newer ones as ["a", "b"]
        pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
        return dict(model["vocab"]), tuple((left, right) for left, right in pairs)
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}: without vocabulary or merges; convert the checkpoint again") from None


def _merges(text: str) -> tuple[tuple[str, str], ...]:
    lines = text.split("\n")
    rules = (line.rstrip("\r") for line in lines if line.strip() and not line.startswith("#version"))
    return tuple((left, right) for left, right in (rule.split(" ") for rule in rules))


def _read_merges(path: Path) -> tuple[tuple[str, str], ...]:
    try:
        return _merges(path.read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"{path}: a line is not two tokens and a space; download the file again") from None


def _special_names(folder: Path, described: Mapping[str, Any]) -> dict[str, str]:
    """Return the four special tokens: from the small files, else from tokenizer.json itself, else CLIP's."""
    ends = described.get("post_processor") or {}
    names = {"bos": ends.get("cls", (BOS,))[0], "eos": ends.get("sep", (EOS,))[0]}
    names |= {"pad": (described.get("padding") or {}).get("pad_token", names["eos"]), "unk": names["eos"]}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        beside = read_json(folder / file) if (folder / file).is_file() else {}
        for role in names:
            token = beside.get(f"{role}_token")
            names[role] = (token.get("content") if isinstance(token, Mapping) else token) or names[role]
    return names


def _added_token(token: Mapping[str, Any]) -> dict[str, Any]:
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return {"content": token["content"]} | {flag: bool(token.get(flag, False)) for flag in flags}


def _context_length(folder: Path) -> int:
    """Return the text tower's number of positions or the limit in the tokenizer's own file, whichever is smaller."""
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    beside = folder / "tokenizer_config.json"
    said = (read_json(beside) if beside.is_file() else {}).get("model_max_length")
    positions = (config.get("text_config") or {}).get("max_position_embeddings", CONTEXT_LENGTH)
    return min(positions, said) if isinstance(said, int) else int(positions)
