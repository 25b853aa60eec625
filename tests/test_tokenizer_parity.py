"""The tokenizer's ids equal those of transformers, on hostile strings too."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharpzo_mlx.clip.tokenizer import Tokenizer
from sharpzo_mlx.clip.vocabulary import BOS, EOS

PIECES = [
    *(
        "a photo of a",
        "Tench",
        "it's",
        "WE'LL",
        "don't",
        "they've I'm he'd you're",
        "’s",
        "'S",
        "''s",
        "1234567890",
    ),
    *(
        "３４",
        "½",
        "²",
        "٣",
        "Ⅷ",
        "é",
        "e\u0301",
        "Å",
        "\u212b",
        "ﬁ",
        "İ",
        "ı",
        "ẞ",
        "ς",
        "Σ",
        "ǅ",
        "한국",
        "한",
    ),
    *(
        "日本語",
        "ไทย",
        "हिन्दी",
        "العربية",
        "עִבְרִית",
        "русский",
        "ЁЛКА",
        "👩‍👩‍👧‍👦",
        "🇫🇷",
        "❤️",
        "😀",
        "🏽",
        "\U0001f9d1\U0001f3ff",
    ),
    *(
        " ",
        "  ",
        "\t",
        "\n",
        "\r\n",
        "\x0b",
        "\x0c",
        "\x1c",
        "\x85",
        "\xa0",
        "\u2003",
        "\u2028",
        "\u3000",
        "\ufeff",
    ),
    *("\u200b", "\u200d", "\u00ad", "\x00", "\x01", "\x07", "\x1b[31m", "\x7f", "\u202e", "\ufffd", "\uffff"),
    *(
        "\U000e0041",
        "\U0010ffff",
        "\U0001f600\ufe0f",
        BOS,
        EOS,
        BOS.upper(),
        "<|endoftext",
        "|>",
        "</w>",
        "Ġ",
        "</W>",
    ),
    *(
        "&amp;",
        "&lt;br&gt;",
        "<b>",
        "http://x.y/?q=1&r=%20",
        "a.b,c;d:e!f?",
        "...",
        "--",
        "__",
        "_a_",
        "#1",
        "$9.99",
    ),
    *(
        "`code`",
        "\\n",
        "{}",
        "{0}",
        "%s",
        '"quoted"',
        "«»",
        "¿¡",
        "x" * 40,
        "Pneumonoultramicroscopicsilicovolcano",
    ),
]


def hostile_strings(count: int) -> list[str]:
    """Strings of pieces that tokenizers treat specially, and of characters from everywhere in unicode."""
    draw = random.Random(0)
    strings = ["", " ", "\n", *PIECES]
    while len(strings) < count:
        if draw.random() < 0.6:
            joint = draw.choice(["", " ", "\t"])
            strings.append(joint.join(draw.choices(PIECES, k=draw.randint(1, 8))))
        else:
            top = draw.choice([0x80, 0x250, 0x3000, 0x10000, 0x110000])
            points = (draw.randrange(top) for _ in range(draw.randint(1, 25)))
            strings.append("".join(chr(point) for point in points if not 0xD800 <= point < 0xE000))
    return strings


@pytest.fixture(scope="module")
def clip_folder(testbed: Path) -> Path:
    return testbed / "clip-tiny"


@pytest.fixture(scope="module")
def two_files(clip_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same vocabulary as vocab.json and merges.txt only."""
    folder = tmp_path_factory.mktemp("two-files")
    for name in ("vocab.json", "merges.txt", "config.json"):
        shutil.copy(clip_folder / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def rewritten(clip_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `to_json` writes, alone in a folder."""
    folder = tmp_path_factory.mktemp("rewritten")
    (folder / "tokenizer.json").write_text(Tokenizer.from_folder(clip_folder).to_json(), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def oracle(clip_folder: Path) -> Callable[[str], list[int]]:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.CLIPTokenizer.from_pretrained(str(clip_folder))
    return lambda text: list(theirs(text)["input_ids"])


@pytest.mark.parametrize("source", ["clip_folder", "two_files", "rewritten"])
def test_ids_equal_transformers_on_hostile_strings(
    source: str, oracle: Callable[[str], list[int]], request: pytest.FixtureRequest
) -> None:
    ours = Tokenizer.from_folder(request.getfixturevalue(source))
    ours.context_length = 10_000
    different = [text for text in hostile_strings(1500) if ours.encode(text) != oracle(text)]
    assert different == []


def test_ids_equal_transformers_on_two_files_in_both(two_files: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.CLIPTokenizer(vocab=str(two_files / "vocab.json"), merges=str(two_files / "merges.txt"))
    ours = Tokenizer.from_folder(two_files)
    ours.context_length = 10_000
    for text in hostile_strings(300):
        assert ours.encode(text) == list(theirs(text)["input_ids"]), repr(text)


def test_any_text_equals_transformers(clip_folder: Path, oracle: Callable[[str], list[int]]) -> None:
    ours = Tokenizer.from_folder(clip_folder)
    ours.context_length = 10_000

    @settings(max_examples=300, deadline=None, database=None, derandomize=True)
    @given(st.text(max_size=60))
    def check(text: str) -> None:
        assert ours.encode(text) == oracle(text)

    check()


def test_batches_and_truncation_equal_transformers(clip_folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.CLIPTokenizer.from_pretrained(str(clip_folder))
    texts = ["a tench", "", "word " * 200, "a photo of a great white shark, it's big."]
    expected = theirs(texts, padding=True, truncation=True, max_length=77)["input_ids"]
    ours = Tokenizer.from_folder(clip_folder)(texts, truncate=True)
    assert ours.tolist() == [list(row) for row in expected]
