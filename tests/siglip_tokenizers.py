"""Small tokenizers of SigLIP's two kinds, trained when a test asks for them.

The real vocabularies are not in this repository: these have the layout of theirs and other words.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

WORDS = [
    "a photo of a tench, a great white shark and two dogs!",
    "a satellite image of farmland; a red bicycle on the street",
    "it's a close-up of the texture of wood (1234567890).",
    "THE quick brown fox jumps over the lazy dog's back?",
    "русский текст и ёлка, 日本語 한국 ελληνικά français español",
    "<unk> & @ # $ % ^ * _ + = [ ] { } | ~ ` \\ / : < >",
    "a low resolution picture of many small painted animals",
]
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")


def corpus() -> list[str]:
    return [" ".join(line.split()[start:]) for line in WORDS * 3 for start in range(4)]


def train_unigram(
    path: Path, *, rule: str = "nmt_nfkc", rules: Path | None = None, kind: str = "unigram", size: int = 300
) -> Path:
    """Write a `spiece.model` with T5's special tokens; skip the test where SentencePiece is missing.

    Args:
        path: the file.
        rule, rules: how characters are normalised, by the name of a table or by a file of one's own.
        kind: "unigram" or "bpe".
        size: the number of pieces.
    """
    library = pytest.importorskip("sentencepiece")
    model = io.BytesIO()
    ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    arguments: dict[str, Any] = {"model_type": kind, "vocab_size": size, "normalization_rule_name": rule}
    if rules is not None:
        arguments |= {"normalization_rule_tsv": str(rules), "normalization_rule_name": ""}
    library.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()), model_writer=model, hard_vocab_limit=False, minloglevel=2, **ids, **arguments
    )
    path.write_bytes(model.getvalue())
    return path


def train_pairs(path: Path, size: int = 700) -> Path:
    """Write a `tokenizer.json` of Gemma's kind: byte fallback, no start, an end token, tokens found beforehand."""
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    pieces = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=pieces, show_progress=False)
    tokenizer.train_from_iterator([line.lower() for line in corpus()], trainer)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    written = json.loads(tokenizer.to_str())
    written["added_tokens"] = [one for one in written["added_tokens"] if one["content"] in SPECIAL]
    path.write_text(json.dumps(written, ensure_ascii=False), encoding="utf-8")
    return path
