"""The tokenizers of SigLIP and SigLIP 2: texts to token ids, an end token behind them, padded to one length.

SigLIP was trained on texts in lower case without punctuation, split into T5's unigram pieces (Zhai et al., arXiv
2303.15343; Kudo, 1804.10959). SigLIP 2 was trained on texts in lower case, split by Gemma's byte-pair merges
(Tschannen et al., 2502.14786). The vocabulary decides between them. Neither has a start token, and the text tower reads
the last position, so every text is padded to the full length: `</s>`, the end token itself, in SigLIP, `<pad>` in
SigLIP 2.

>>> read_tokenizer(Path("siglip2-mlx"), config.text)(["a tench"]).shape  # doctest: +SKIP
(1, 64)
"""

from __future__ import annotations

import base64
import json
import re
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import msgspec
import tokenizers
from tokenizers import models, normalizers

from sharpzo_mlx.clip.charsmap import SPACE, CharsMap, normalise
from sharpzo_mlx.clip.siglip_vocabulary import EOS, PAD, UNK, PairVocabulary, UnigramVocabulary, read_siglip_vocabulary
from sharpzo_mlx.clip.tokenizer import Tokenizer, check_unicode, in_one_line, split_words
from sharpzo_mlx.clip.tower_config import SigLIPTextConfig, TextConfig
from sharpzo_mlx.clip.vocabulary import describe_added

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_SPECIAL = re.compile(r"\s*(</s>|<unk>)\s*")


def read_tokenizer(folder: Path, text: TextConfig) -> Tokenizer:
    """Read the tokenizer of a model folder, ours or Hugging Face's, of CLIP or SigLIP.

    Args:
        folder: the folder.
        text: the text tower, which decides the kind and bounds ids and lengths.

    Raises:
        UserError: the folder has no tokenizer that fits the tower.
    """
    if not isinstance(text, SigLIPTextConfig):
        return Tokenizer.from_folder(folder, text)
    vocabulary = read_siglip_vocabulary(folder, text)
    with in_one_line(f"{folder}: the tokenizer's pieces are wrong", "convert it again"):
        if isinstance(vocabulary, UnigramVocabulary):
            return UnigramTokenizer(vocabulary, text.max_position_embeddings)
        return PairTokenizer(vocabulary, text.max_position_embeddings)


class PaddedTokenizer(Tokenizer):
    """A tokenizer that pads every text to the length that the text tower takes."""

    bos_id = None

    def __call__(self, texts: Sequence[str], truncate: bool = False) -> mx.array:
        """Encode texts as `Tokenizer` does, [len(texts), context_length]."""
        rows = super().__call__(texts, truncate)
        return mx.pad(rows, [(0, 0), (0, self.context_length - rows.shape[1])], constant_values=self.pad_id)


class UnigramTokenizer(PaddedTokenizer):
    """SigLIP's tokenizer; its ids equal those of transformers' SiglipTokenizer.

    Args:
        vocabulary: the pieces.
        context_length: the most tokens that the text tower takes, the end token included.
    """

    def __init__(self, vocabulary: UnigramVocabulary, context_length: int) -> None:
        self.context_length = context_length
        self._vocabulary = vocabulary
        self._ids = {piece: number for number, (piece, _) in enumerate(vocabulary.pieces)}
        self.eos_id = self.pad_id = self._ids[EOS["unigram"]]
        self._table = CharsMap(vocabulary.charsmap) if vocabulary.charsmap else None
        # a piece that no text is split into gets a name that no text holds
        pieces = [
            (f"\0{number}" if number in vocabulary.hidden else piece, score)
            for number, (piece, score) in enumerate(vocabulary.pieces)
        ]
        self._backend = tokenizers.Tokenizer(models.Unigram(pieces, self._ids[UNK], byte_fallback=False))

    def encode_words(self, text: str) -> list[int]:
        """Return the ids of a text of any length in its canonical form, without the end token."""
        check_unicode(text)
        ids: list[int] = []
        for part in _SPECIAL.split(SPACE + text.replace(SPACE, " ")):
            if part in (EOS["unigram"], UNK):
                ids.append(self._ids[part])
            else:
                ids += split_words(self._backend, normalise(_canonical(part), self._table))
        return ids[:-1] if ids[-1:] == [self.eos_id] else ids  # an end token stands there already

    def to_json(self) -> str:
        """Return a `tokenizer.json` that holds everything; `read_tokenizer` reads it back."""
        found = self._vocabulary
        table = base64.b64encode(found.charsmap).decode()
        names = ((number, found.pieces[number][0]) for number in sorted(found.hidden))
        written: dict[str, Any] = {
            "version": "1.0",
            "added_tokens": [{"id": number, "content": name, "special": True} for number, name in names],
            "normalizer": {"type": "Precompiled", "precompiled_charsmap": table} if table else None,
            "model": {"type": "Unigram", "unk_id": self._ids[UNK], "vocab": [list(piece) for piece in found.pieces]},
        }
        return json.dumps(written, ensure_ascii=False)


class PairTokenizer(PaddedTokenizer):
    """SigLIP 2's tokenizer; its ids equal those of transformers' Siglip2Tokenizer.

    Args:
        vocabulary: the tokens and merges.
        context_length: the most tokens that the text tower takes, the end token included.
    """

    def __init__(self, vocabulary: PairVocabulary, context_length: int) -> None:
        self.context_length = context_length
        ids = vocabulary.tokens | {token.content: token.id for token in vocabulary.added}
        self.eos_id, self.pad_id = ids[EOS["pairs"]], ids[PAD]
        self._vocabulary = vocabulary
        self._backend = tokenizers.Tokenizer(
            models.BPE(
                vocab=vocabulary.tokens,
                merges=list(vocabulary.merges),
                unk_token=UNK,
                fuse_unk=True,
                byte_fallback=True,
            )
        )
        self._backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(" ", SPACE)])
        self._backend.add_tokens([tokenizers.AddedToken(**describe_added(token)) for token in vocabulary.added])

    def to_json(self) -> str:
        """Return a `tokenizer.json` that holds everything; `read_tokenizer` reads it back."""
        found = self._vocabulary
        spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
        model = {"type": "BPE", "unk_token": UNK, "fuse_unk": True, "byte_fallback": True}
        written = {
            "version": "1.0",
            "added_tokens": [msgspec.structs.asdict(token) for token in found.added],
            "normalizer": {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, spaces]},
            "model": model | {"vocab": found.tokens, "merges": [list(pair) for pair in found.merges]},
        }
        return json.dumps(written, ensure_ascii=False)


def _canonical(text: str) -> str:
    """Return a text in lower case, without ASCII punctuation, with single spaces and none at its ends."""
    return re.sub(r"\s+", " ", text.lower().translate(_PUNCTUATION)).strip()
