"""Read the vocabulary of a SigLIP's tokenizer: T5's unigram pieces, or Gemma's byte-pair merges.

A `tokenizer.json` holds either; a SentencePiece model (`spiece.model`, `tokenizer.model`) does too, without the merges,
which follow from the order of its pieces. Only the vocabulary is taken from a file. How a text becomes tokens is the
same for every checkpoint of a kind, see `siglip_tokenizer`.

>>> type(read_siglip_vocabulary(Path("siglip2"), text)).__name__  # doctest: +SKIP
'PairVocabulary'
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from sharpzo_mlx.clip.sentencepiece_file import CONTROL, UNKNOWN, SentencePieceFile, read_sentencepiece
from sharpzo_mlx.clip.tokenizer_files import AddedToken, read_record
from sharpzo_mlx.clip.tower_config import TextConfig
from sharpzo_mlx.clip.vocabulary import check_ids
from sharpzo_mlx.errors import UserError, shown

EOS, UNK, PAD = {"unigram": "</s>", "pairs": "<eos>"}, "<unk>", "<pad>"
FILES = ("tokenizer.json", "spiece.model", "tokenizer.model")


@dataclass(frozen=True)
class UnigramVocabulary:
    """The pieces of a unigram model.

    Attributes:
        pieces: text and logarithmic probability of each id.
        hidden: the ids of pieces that no text is split into, such as `</s>`.
        charsmap: the table that normalises text; empty for none.
    """

    pieces: tuple[tuple[str, float], ...]
    hidden: frozenset[int]
    charsmap: bytes


@dataclass(frozen=True)
class PairVocabulary:
    """The tokens and merges of a byte-pair model, earlier merges first, and tokens that are found before it is used."""

    tokens: dict[str, int]
    merges: tuple[tuple[str, str], ...]
    added: tuple[AddedToken, ...]


class _Kind(msgspec.Struct):
    type: str | None = None


class _KindFile(msgspec.Struct):
    model: _Kind


class _Unigram(msgspec.Struct):
    vocab: list[tuple[str, float]]
    unk_id: int | None = None


class _UnigramFile(msgspec.Struct):
    model: _Unigram
    added_tokens: list[AddedToken] = []
    normalizer: dict[str, Any] | None = None


class _Pairs(msgspec.Struct):
    vocab: dict[str, int]
    merges: list[str | tuple[str, str]]
    end_of_word_suffix: str | None = None


class _PairsFile(msgspec.Struct):
    model: _Pairs
    added_tokens: list[AddedToken] = []


def read_siglip_vocabulary(folder: Path, text: TextConfig) -> UnigramVocabulary | PairVocabulary:
    """Read the vocabulary of a SigLIP's folder.

    Args:
        folder: a folder with one of `FILES`.
        text: the text tower, which bounds the ids.

    Raises:
        UserError: the files are missing, or hold no vocabulary of these kinds, or ids that the tower does not have.
    """
    path = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if path is None:
        raise UserError(f"{folder}: no tokenizer; a SigLIP needs one of {', '.join(FILES)} beside its weights")
    found = _from_json(path) if path.suffix == ".json" else _from_sentencepiece(read_sentencepiece(path))
    if isinstance(found, UnigramVocabulary):
        tokens, kind = {piece: number for number, (piece, _) in enumerate(found.pieces)}, "unigram"
        if len(tokens) < len(found.pieces):
            raise UserError(f"{path}: holds a token twice; download the checkpoint again")
    else:
        tokens, kind = found.tokens | {token.content: token.id for token in found.added}, "pairs"
    check_ids(folder, tokens, text.vocab_size)
    for name in (EOS[kind], UNK, *([PAD] if kind == "pairs" else [])):
        if name not in tokens:
            raise UserError(f"{path}: without the token {name}; it is no tokenizer of a SigLIP's")
    return found


def _from_json(path: Path) -> UnigramVocabulary | PairVocabulary:
    kind = read_record(path, _KindFile).model.type
    if kind == "Unigram":
        file = read_record(path, _UnigramFile)
        special = {token.id for token in file.added_tokens if token.special}
        unknown = {file.model.unk_id} if file.model.unk_id is not None else set()
        for number in sorted(special | unknown):
            if not 0 <= number < len(file.model.vocab):
                raise UserError(f"{path}: names the token {shown(number)}, which it does not have; download it again")
        charsmap = _find_charsmap(file.normalizer, path)
        return UnigramVocabulary(tuple(file.model.vocab), frozenset(special | unknown), charsmap)
    if kind not in ("BPE", None):
        raise UserError(f"{path}: neither T5's nor Gemma's tokenizer; give a SigLIP checkpoint")
    pairs = read_record(path, _PairsFile)
    if pairs.model.end_of_word_suffix:
        raise UserError(f"{path}: a CLIP's tokenizer beside a SigLIP's configuration; download both again")
    merges = [tuple(merge.split(" ", 1)) if isinstance(merge, str) else merge for merge in pairs.model.merges]
    if any(len(merge) != 2 for merge in merges):
        raise UserError(f"{path}: model.merges has an entry that is not two tokens; download the checkpoint again")
    return PairVocabulary(pairs.model.vocab, tuple((a, b) for a, b in merges), tuple(pairs.added_tokens))


def _find_charsmap(normalizer: dict[str, Any] | None, path: Path) -> bytes:
    steps = (normalizer or {}).get("normalizers", [normalizer] if normalizer else [])
    for step in steps if isinstance(steps, list) else []:
        if isinstance(step, dict) and step.get("type") == "Precompiled":
            try:
                return base64.b64decode(step.get("precompiled_charsmap") or "", validate=True)
            except (TypeError, binascii.Error):
                raise UserError(f"{path}: its table of characters is damaged; download the file again") from None
    return b""


def _from_sentencepiece(file: SentencePieceFile) -> UnigramVocabulary | PairVocabulary:
    special = {number for number, (_, _, kind) in enumerate(file.pieces) if kind in (UNKNOWN, CONTROL)}
    if file.unigram:
        pieces = tuple((piece, score) for piece, score, _ in file.pieces)
        return UnigramVocabulary(pieces, frozenset(special), file.charsmap)
    tokens = {piece: number for number, (piece, _, _) in enumerate(file.pieces)}
    added = tuple(AddedToken(file.pieces[number][0], number, special=True) for number in sorted(special))
    return PairVocabulary(tokens, tuple(_merges(file.pieces, special)), added)


def _merges(pieces: Sequence[tuple[str, float, int]], special: set[int]) -> Iterator[tuple[str, str]]:
    """Yield the merges that make each piece, those of better pieces first."""
    tokens = {piece for number, (piece, _, _) in enumerate(pieces) if number not in special}
    for piece, _, _ in sorted(pieces, key=lambda one: -one[1]):
        if piece in tokens:
            cuts = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
            yield from ((left, right) for left, right in cuts if left in tokens and right in tokens)
