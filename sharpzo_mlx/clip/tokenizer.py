"""CLIP's tokenizer: it turns texts into token ids by lower-cased byte-level BPE, between a start and an end token.

The pipeline is CLIP's own (Radford et al., arXiv 2103.00020, section 2.4) and the same for every checkpoint. Only the
vocabulary, the merges and the special tokens come from the checkpoint's folder, as `tokenizer.json` or as `vocab.json`
and `merges.txt`. A file's settings for padding and truncation therefore never change the ids.

>>> Tokenizer.from_folder("m")(["a tench", "a great white shark"]).shape  # doctest: +SKIP
(2, 6)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import mlx.core as mx
import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors

from sharpzo_mlx.clip.tower_config import TextConfig
from sharpzo_mlx.clip.vocabulary import Vocabulary, read_vocabulary
from sharpzo_mlx.errors import UserError, shown

WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
PANIC = "PanicException"
SHOWN = 60  # characters of a text that an error repeats


class Tokenizer:
    """The tokenizer of a checkpoint; its ids equal those of transformers' CLIPTokenizer.

    Attributes:
        bos_id, eos_id, pad_id: the ids of the start, end and padding tokens; a SigLIP's texts have no start token.
        context_length: the most tokens that the text tower takes, start and end included.
    """

    bos_id: int | None
    eos_id: int
    pad_id: int
    context_length: int

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.context_length = vocabulary.context_length
        self.bos_id = vocabulary.tokens[vocabulary.bos]
        self.eos_id = vocabulary.tokens[vocabulary.eos]
        self.pad_id = vocabulary.tokens[vocabulary.pad]
        self._pad = vocabulary.pad
        self._backend = _backend(vocabulary)

    @classmethod
    def from_folder(cls, folder: str | Path, text: TextConfig | None = None) -> Tokenizer:
        """Read the tokenizer of a model folder, ours or Hugging Face's.

        Args:
            folder: the folder.
            text: the text tower, which bounds ids and lengths; None: as the folder's config.json says.

        Raises:
            UserError: the folder has no tokenizer.json, nor vocab.json and merges.txt, or they hold no CLIP vocabulary.
        """
        vocabulary = read_vocabulary(Path(folder), text)
        with in_one_line(f"{folder}: the tokenizer's merges are wrong", "convert it again"):
            return cls(vocabulary)

    @property
    def most_words(self) -> int:
        """The most tokens that a text may have without its start and end."""
        return self.context_length - (1 if self.bos_id is None else 2)

    def encode_words(self, text: str) -> list[int]:
        """Return the ids of a text of any length, without start and end tokens."""
        check_unicode(text)
        return split_words(self._backend, text)

    def encode(self, text: str, *, truncate: bool = False) -> list[int]:
        """Return the ids of a text, between the start and the end token.

        Args:
            text: any unicode text; it may be empty.
            truncate: shorten a text that is too long to its first `context_length` - 2 tokens; the end token stays.

        Returns:
            At most `context_length` ids.

        Raises:
            UserError: the text is too long and `truncate` is false.
        """
        words = self.encode_words(text)
        most = self.most_words
        if len(words) > most and not truncate:
            shown = text if len(text) <= SHOWN else text[:SHOWN] + "…"
            raise UserError(
                f"the text {shown!r} has {len(words)} tokens, the model takes {most}: shorten it, or ask for truncation"
            )
        start = [] if self.bos_id is None else [self.bos_id]
        return [*start, *words[:most], self.eos_id]

    def __call__(self, texts: Sequence[str], truncate: bool = False) -> mx.array:
        """Encode texts of unequal length as one array.

        Args:
            texts: one or more texts.
            truncate: see `encode`.

        Returns:
            int32 [len(texts), longest], padded on the right with `pad_id`.

        Raises:
            UserError: a text is too long and `truncate` is false, or `texts` is one string or empty.
        """
        if isinstance(texts, str) or not texts:
            raise UserError(f"expected a list of texts, not {texts!r}")
        rows = [self.encode(text, truncate=truncate) for text in texts]
        longest = max(map(len, rows))
        return mx.array([row + [self.pad_id] * (longest - len(row)) for row in rows], dtype=mx.int32)

    def to_json(self) -> str:
        """Return a `tokenizer.json` that holds everything, the padding token too; `from_folder` reads it back."""
        copy = tokenizers.Tokenizer.from_str(self._backend.to_str())
        if self.pad_id != self.eos_id:
            copy.enable_padding(pad_id=self.pad_id, pad_token=self._pad)
        written: str = copy.to_str()
        return written


def check_unicode(text: str) -> None:
    """Refuse a file name in another encoding, which Python keeps as lone surrogates, with a UserError."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"the text {text!r} holds bytes that are no unicode; correct it") from None


def split_words(backend: tokenizers.Tokenizer, text: str) -> list[int]:
    """Return the ids that a tokenizer gives for a text, without start and end tokens; UserError if it cannot."""
    with in_one_line(f"the tokenizer cannot split {shown(text)}", "convert the checkpoint again"):
        ids: list[int] = backend.encode(text, add_special_tokens=False).ids
    return ids


@contextmanager
def in_one_line(fault: str, remedy: str) -> Iterator[None]:
    """Turn an error of `tokenizers` into a UserError; it has no narrower class, and a panic of Rust is no Exception."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != PANIC:
            raise
        raise UserError(f"{fault} ({shown(str(error), 120)}); {remedy}") from error


def _backend(vocabulary: Vocabulary) -> tokenizers.Tokenizer:
    """Build CLIP's pipeline over this vocabulary: normalise, split into words, then bytes, then merge."""
    backend = tokenizers.Tokenizer(
        models.BPE(
            vocab=vocabulary.tokens,
            merges=list(vocabulary.merges),
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            unk_token=vocabulary.unk,
        )
    )
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    words = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    backend.decoder = decoders.ByteLevel()
    end, start = ((token, vocabulary.tokens[token]) for token in (vocabulary.eos, vocabulary.bos))
    backend.post_processor = processors.RobertaProcessing(end, start, trim_offsets=False, add_prefix_space=False)
    backend.add_tokens([tokenizers.AddedToken(**token) for token in vocabulary.added])
    return backend
