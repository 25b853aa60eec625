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
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from sharpzo_mlx import reading
from sharpzo_mlx.clip.config_checks import MOST
from sharpzo_mlx.clip.tokenizer_files import (
    AddedToken,
    BPEModel,
    Ends,
    ModelSizes,
    SpecialToken,
    SpecialTokens,
    TextSizes,
    TokenizerFile,
    read_record,
)
from sharpzo_mlx.clip.tower_config import TextConfig
from sharpzo_mlx.errors import UserError, shown

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
CONTEXT_LENGTH = 77
SHORTEST = 3  # tokens of a text: start, a word, end
END_OF_WORD = "</w>"
UNMADE = 0.01  # share of words that no merge makes, such as words that were added later


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


def read_vocabulary(folder: Path, text: TextConfig | None = None) -> Vocabulary:
    """Read the vocabulary of a model folder.

    Args:
        folder: a folder with tokenizer.json, or with vocab.json and merges.txt.
        text: the text tower, which bounds the ids and the length of a text; None: as far as the folder's config.json
            says.

    Raises:
        UserError: the files are missing, or hold no vocabulary of CLIP's kind, or ids that the tower does not have.
    """
    if (whole := folder / "tokenizer.json").is_file():
        described = read_record(whole, TokenizerFile)
        tokens, merges = _from_tokenizer_json(whole, described.model)
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        described = TokenizerFile()
        tokens, merges = read_record(folder / "vocab.json", dict[str, int]), _read_merges(folder / "merges.txt")
        _check_merges(folder / "merges.txt", tokens, merges)
    else:
        raise UserError(f"{folder}: no tokenizer.json, nor vocab.json and merges.txt; convert the checkpoint again")
    names = _special_names(folder, described)
    added = tuple(describe_added(token) for token in described.added_tokens)
    tokens = tokens | {token.content: token.id for token in described.added_tokens}
    words, positions = _find_sizes(folder, text)
    check_ids(folder, tokens, words)
    for role, name in names.items():
        if name not in tokens:
            raise UserError(
                f"{folder}: the {role} token {shown(name)} is not in the vocabulary; it is no CLIP tokenizer"
            )
    specials = tuple(describe_added(AddedToken(name, 0, special=True)) for name in dict.fromkeys(names.values()))
    length = _context_length(folder, positions)
    return Vocabulary(tokens, merges, **names, added=added or specials, context_length=length)


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
    added = tuple(describe_added(AddedToken(name, 0, special=True)) for name in (BOS, EOS))
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
        read = reading.read_json(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give a folder that `sharpzo-mlx convert` has made") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({reading.reason(error)}); convert the checkpoint again") from error
    if not isinstance(read, dict):
        raise UserError(f"{path}: holds no object of named values; convert the checkpoint again")
    return read


def _from_tokenizer_json(path: Path, model: BPEModel | None) -> tuple[dict[str, int], tuple[tuple[str, str], ...]]:
    if model is None or model.type not in ("BPE", None) or model.end_of_word_suffix != END_OF_WORD:
        raise UserError(f"{path}: not CLIP's byte-pair tokenizer; give a CLIP checkpoint")
    pairs = [tuple(merge.split(" ")) if isinstance(merge, str) else merge for merge in model.merges]
    if any(len(pair) != 2 for pair in pairs):
        raise UserError(f"{path}: model.merges has an entry that is not two tokens; convert the checkpoint again")
    return model.vocab, tuple((left, right) for left, right in pairs)


def _merges(text: str) -> tuple[tuple[str, str], ...]:
    lines = text.split("\n")
    rules = (line.rstrip("\r") for line in lines if line.strip() and not line.startswith("#version"))
    return tuple((left, right) for left, right in (rule.split(" ") for rule in rules))


def _read_merges(path: Path) -> tuple[tuple[str, str], ...]:
    try:
        return _merges(reading.read_text(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({reading.reason(error)}); download the file again") from None
    except ValueError:
        raise UserError(f"{path}: a line is not two tokens and a space; download the file again") from None


def _check_merges(path: Path, tokens: Collection[str], merges: Collection[tuple[str, str]]) -> None:
    """Refuse a list of merges that was cut short: nearly every word of a vocabulary comes from one of them."""
    made = {left + right for left, right in merges}
    words = [token for token in tokens if len(token.removesuffix(END_OF_WORD)) > 1 and not token.startswith("<")]
    missing = sum(word not in made for word in words)
    if missing > len(words) * UNMADE:
        raise UserError(f"{path}: makes {len(words) - missing} of the {len(words)} words; download the file again")


def _special_names(folder: Path, described: TokenizerFile) -> dict[str, str]:
    """Return the four special tokens: from the small files, else from tokenizer.json itself, else CLIP's."""
    ends = described.post_processor or Ends()
    names = {"bos": ends.cls[0] if ends.cls else BOS, "eos": ends.sep[0] if ends.sep else EOS}
    padding = described.padding.pad_token if described.padding else None
    names |= {"pad": padding or names["eos"], "unk": names["eos"]}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        beside = read_record(folder / file, SpecialTokens) if (folder / file).exists() else SpecialTokens()
        for role in names:
            token: str | SpecialToken | None = getattr(beside, f"{role}_token")
            names[role] = (token.content if isinstance(token, SpecialToken) else token) or names[role]
    return names


def _find_sizes(folder: Path, text: TextConfig | None) -> tuple[int, int]:
    """Return the text tower's numbers of tokens and of positions, as far as they are known."""
    if text is not None:
        return text.vocab_size, text.max_position_embeddings
    path = folder / "config.json"
    found = (read_record(path, ModelSizes).text_config if path.exists() else None) or TextSizes()
    most = MOST["vocab_size"]
    positions = found.max_position_embeddings
    return min(most, found.vocab_size or most), CONTEXT_LENGTH if positions is None else positions


def check_ids(folder: Path, tokens: Mapping[str, int], words: int) -> None:
    """Refuse ids that are no rows of the token table, or not distinct; `tokenizers` takes memory up to the last."""
    for token, number in tokens.items():
        if not 0 <= number < words:
            raise UserError(
                f"{folder}: its tokenizer gives {shown(token)} the id {number}, but the model has {words} tokens; "
                "download or convert the checkpoint again"
            )
    if len(set(tokens.values())) < len(tokens):
        raise UserError(f"{folder}: its tokenizer gives two tokens one id; download or convert the checkpoint again")


def describe_added(token: AddedToken) -> dict[str, Any]:
    return {name: value for name, value in msgspec.structs.asdict(token).items() if name != "id"}


def _context_length(folder: Path, positions: int) -> int:
    """Return the text tower's number of positions or the limit in the tokenizer's own file, whichever is smaller."""
    beside = folder / "tokenizer_config.json"
    said = read_record(beside, SpecialTokens).model_max_length if beside.exists() else None
    length = min(positions, said) if isinstance(said, int) else positions
    if length < SHORTEST:
        raise UserError(f"{folder}: a text may have {length} tokens; its start, a word and its end are {SHORTEST}")
    return length
