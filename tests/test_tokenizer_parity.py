"""The tokenizer's ids equal those of transformers, on hostile strings too."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hostile_strings import hostile_strings
from hypothesis import given, settings
from hypothesis import strategies as st

from sharpzo_mlx.clip.tokenizer import Tokenizer


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
