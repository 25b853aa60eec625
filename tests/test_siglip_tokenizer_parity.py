"""The ids of SigLIP's tokenizers equal those of transformers, on hostile strings too; vocabularies are small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hostile_strings import hostile_strings
from siglip_tokenizers import corpus, train_pairs, train_unigram

from sharpzo_mlx.clip.siglip_tokenizer import PairTokenizer, UnigramTokenizer, read_tokenizer
from sharpzo_mlx.clip.tokenizer import Tokenizer
from sharpzo_mlx.clip.tower_config import SigLIPTextConfig

TEXT = SigLIPTextConfig(vocab_size=2000)
SIGLIP_PIECES = [
    "</s>",
    "<unk>",
    "x </s> y",
    "</S>",
    "＜unk＞",
    "▁",
    "a▁b",
    "- dash",
    "¨ ¨",
    "<pad>",
    "<eos>",
    "a  b",
    "Σ",
]


def strings() -> list[str]:
    return [*SIGLIP_PIECES, *corpus(), *hostile_strings(1500)]


def differences(ours: Tokenizer, theirs: Any, texts: list[str]) -> list[str]:
    ours.context_length = 10_000
    return [text for text in texts if ours.encode(text) != list(theirs(text)["input_ids"])]


@pytest.mark.filterwarnings("ignore:This sequence already has")
def test_unigram_ids_equal_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    path = train_unigram(tmp_path / "spiece.model")
    theirs = transformers.SiglipTokenizer(str(path))
    ours = read_tokenizer(tmp_path, TEXT)
    assert isinstance(ours, UnigramTokenizer)
    assert differences(ours, theirs, strings()) == []
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "tokenizer.json").write_text(ours.to_json(), encoding="utf-8")
    again = read_tokenizer(tmp_path / "again", TEXT)
    assert differences(again, theirs, strings()) == []


def test_pair_ids_equal_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    path = train_pairs(tmp_path / "tokenizer.json")
    theirs = transformers.Siglip2Tokenizer(tokenizer_file=str(path), add_bos_token=False, add_eos_token=True)
    ours = read_tokenizer(tmp_path, TEXT)
    assert isinstance(ours, PairTokenizer)
    assert differences(ours, theirs, strings()) == []
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "tokenizer.json").write_text(ours.to_json(), encoding="utf-8")
    assert differences(read_tokenizer(tmp_path / "again", TEXT), theirs, strings()) == []
