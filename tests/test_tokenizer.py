"""The tokenizer against a plain BPE, on a vocabulary of the bytes and a few merges that the tests make."""

from __future__ import annotations

import itertools
import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharpzo_mlx.clip.tokenizer import Tokenizer
from sharpzo_mlx.clip.vocabulary import BOS, EOS, clip_vocabulary
from sharpzo_mlx.errors import UserError

MERGES = [
    ("t", "h"),
    ("th", "e</w>"),
    ("a", "n"),
    ("an", "d</w>"),
    ("i", "n"),
    ("e", "r</w>"),
    ("Ã", "©</w>"),
]


def byte_alphabet() -> dict[int, str]:
    """GPT-2's printable stand-ins: each byte's own character where it is printable, else one from 256 up."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in own]
    return {byte: chr(byte) for byte in own} | {byte: chr(256 + n) for n, byte in enumerate(others)}


def small_vocabulary() -> dict[str, int]:
    symbols = list(byte_alphabet().values())
    tokens = [
        *symbols,
        *(symbol + "</w>" for symbol in symbols),
        *("".join(pair) for pair in MERGES),
        BOS,
        EOS,
    ]
    return {token: index for index, token in enumerate(tokens)}


def plain_bpe(text: str) -> list[int]:
    """CLIP's tokenizer in its simplest form: the strongest merge first, until none is left."""
    alphabet, vocabulary, ids = byte_alphabet(), small_vocabulary(), []
    text = unicodedata.normalize("NFC", text).lower()
    for word in re.findall(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:[^\s\w]|_)+", text):
        parts = [alphabet[byte] for byte in word.encode()]
        parts[-1] += "</w>"
        while pairs := [pair for pair in MERGES if pair in itertools.pairwise(parts)]:
            at = list(itertools.pairwise(parts)).index(pairs[0])
            parts[at : at + 2] = ["".join(pairs[0])]
        ids += [vocabulary[part] for part in parts]
    return ids


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A folder with the small vocabulary as vocab.json and merges.txt, and ten positions."""
    (tmp_path / "vocab.json").write_text(json.dumps(small_vocabulary()), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in MERGES), ""]
    (tmp_path / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "config.json").write_text('{"text_config": {"max_position_embeddings": 10}}')
    return tmp_path


def ids(tokenizer: Tokenizer, texts: list[str], *, truncate: bool = False) -> list[list[int]]:
    """The rows of a batch."""
    return [[int(token) for token in row] for row in np.array(tokenizer(texts, truncate=truncate))]


def edit(path: Path, **changes: Any) -> None:
    """Change the top-level values of a JSON file."""
    read = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps(read | changes), encoding="utf-8")


def test_ids_equal_plain_bpe(small: Path) -> None:
    tokenizer = Tokenizer.from_folder(small)

    @settings(max_examples=300, deadline=None, database=None, derandomize=True)
    @given(st.text(alphabet="thean dir'sx.!7é\t-_TE", max_size=40))
    def check(text: str) -> None:
        assert tokenizer.encode_words(text) == plain_bpe(text)

    check()


def test_texts_of_unequal_length_are_padded_between_the_ends(small: Path) -> None:
    tokenizer = Tokenizer.from_folder(small)
    rows = ids(tokenizer, ["the", "the and"])
    the, and_ = plain_bpe("the") + plain_bpe("and")
    bos, eos = tokenizer.bos_id, tokenizer.eos_id
    assert rows == [[bos, the, eos, eos], [bos, the, and_, eos]]
    assert ids(tokenizer, [""]) == [[bos, eos]]


def test_too_long_a_text_is_named_unless_truncation_is_asked_for(small: Path) -> None:
    tokenizer = Tokenizer.from_folder(small)
    assert len(tokenizer.encode("the " * 8)) == 10
    with pytest.raises(UserError, match=r"'the the .*9 tokens, the model takes 8"):
        tokenizer(["the", "the " * 9])
    rows = ids(tokenizer, ["the " * 7 + "and the"], truncate=True)
    assert rows[0] == [tokenizer.bos_id, *plain_bpe("the " * 7 + "and"), tokenizer.eos_id]
    assert len(tokenizer.encode_words("the " * 50)) == 50


@pytest.mark.parametrize("texts", ["the", [], ()])
def test_one_string_or_none_is_no_list_of_texts(small: Path, texts: Any) -> None:
    with pytest.raises(UserError, match="expected a list of texts"):
        Tokenizer.from_folder(small)(texts)


def test_text_that_is_no_unicode_is_named(small: Path) -> None:
    with pytest.raises(UserError, match="no unicode"):
        Tokenizer.from_folder(small).encode("caf\udce9")


def test_padding_and_truncation_settings_in_the_file_do_not_leak_in(small: Path, tmp_path: Path) -> None:
    before = Tokenizer.from_folder(small)
    written = json.loads(before.to_json())
    fixed = {"direction": "Right", "strategy": {"Fixed": 9}, "pad_to_multiple_of": None, "pad_type_id": 0}
    written["padding"] = fixed | {"pad_id": 0, "pad_token": "!"}
    written["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    (small / "tokenizer.json").write_text(json.dumps(written), encoding="utf-8")
    after = Tokenizer.from_folder(small)
    assert after.encode("the and the and") == before.encode("the and the and")
    assert after(["the", "the and"]).shape == (2, 4)
    assert after.pad_id == 0


def test_the_padding_token_is_the_checkpoints_and_survives_to_json(small: Path, tmp_path: Path) -> None:
    edit(small / "tokenizer_config.json", pad_token={"content": "!"}, model_max_length=10**30)
    tokenizer = Tokenizer.from_folder(small)
    assert ids(tokenizer, ["the", "the and"])[0][-1] == small_vocabulary()["!"] == tokenizer.pad_id
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
    again = Tokenizer.from_folder(alone)
    assert ids(again, ["the", "the and"]) == ids(tokenizer, ["the", "the and"])
    assert again.to_json() == tokenizer.to_json()
    assert (tokenizer.context_length, again.context_length) == (10, 77)


def test_older_merges_and_ends_of_lines(small: Path) -> None:
    expected = Tokenizer.from_folder(small).encode("the and")
    written = json.loads(Tokenizer.from_folder(small).to_json())
    (small / "merges.txt").write_bytes((small / "merges.txt").read_bytes().replace(b"\n", b"\r\n"))
    assert Tokenizer.from_folder(small).encode("the and") == expected
    written["model"]["merges"] = [" ".join(pair) for pair in written["model"]["merges"]]
    (small / "tokenizer.json").write_text(json.dumps(written), encoding="utf-8")
    assert Tokenizer.from_folder(small).encode("the and") == expected


def test_what_is_no_clip_vocabulary_is_refused_in_one_line(small: Path, tmp_path: Path) -> None:
    written = json.loads(Tokenizer.from_folder(small).to_json())
    for broken in (
        "{",
        "[]",
        json.dumps(written | {"model": {"type": "WordPiece", "vocab": {}}}),
        json.dumps(written | {"model": written["model"] | {"end_of_word_suffix": None}}),
        json.dumps(written | {"model": {"type": "BPE", "end_of_word_suffix": "</w>"}}),
    ):
        (small / "tokenizer.json").write_text(broken, encoding="utf-8")
        with pytest.raises(UserError, match=r"tokenizer\.json: [^\n]*;[^\n]*$"):
            Tokenizer.from_folder(small)
    (small / "tokenizer.json").unlink()
    (small / "merges.txt").write_text("one two three\n")
    with pytest.raises(UserError, match=r"merges\.txt"):
        Tokenizer.from_folder(small)
    (small / "merges.txt").write_text("q z\n")
    with pytest.raises(UserError, match="merges"):
        Tokenizer.from_folder(small)
    (small / "merges.txt").unlink()
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        Tokenizer.from_folder(small)


def test_a_vocabulary_without_the_special_tokens_is_refused(small: Path) -> None:
    (small / "vocab.json").write_text('{"a": 0, "a</w>": 1}')
    (small / "merges.txt").write_text("")
    with pytest.raises(UserError, match="bos token"):
        Tokenizer.from_folder(small)


def test_merges_that_were_cut_short_are_refused(tmp_path: Path) -> None:
    whole = clip_vocabulary()
    (tmp_path / "vocab.json").write_text(json.dumps(whole.tokens), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in whole.merges)]
    (tmp_path / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    assert Tokenizer.from_folder(tmp_path).encode("a dog") == [49406, 320, 1929, 49407]
    for length, made in ((40_000, "39995"), (1, "0")):  # five words begin with "<", as special tokens do
        (tmp_path / "merges.txt").write_text("\n".join(lines[:length]), encoding="utf-8")
        with pytest.raises(UserError, match=rf"merges\.txt: makes {made} of the 48889 words; download the file again"):
            Tokenizer.from_folder(tmp_path)
