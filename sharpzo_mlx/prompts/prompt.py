"""The space that is searched, and what the search finds: a context of n vectors in front of every class name.

The context starts at the token embeddings of the template's words before `{}` and is shifted by a fixed random
projection of a short vector: ctx(w) = p0 + reshape(A w, (n, m)) (SharpZO, arXiv 2506.20990, section 3). A's entries
are drawn from the run's seed; their spread follows the checkpoint's token embeddings, so that w_j of about 1 moves
the context about as far as words lie apart. w = 0 is exactly zero-shot.

>>> space = PromptSpace(initial=mx.zeros((4, 8)), projection=mx.ones((32, 2)))
>>> space.contexts(mx.zeros((3, 2))).shape
(3, 4, 8)
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import mlx.core as mx

from sharpzo_mlx.errors import UserError
from sharpzo_mlx.files import atomic_path
from sharpzo_mlx.rng import key_for

if TYPE_CHECKING:
    from sharpzo_mlx.clip.text import TextModel
    from sharpzo_mlx.clip.tokenizer import Tokenizer

SAMPLED_ROWS = 4096  # of the token table, for its spread


@dataclass(frozen=True)
class PromptTokens:
    """The token ids of all classes' prompts, cut at `{}`: what is shared, and what each class adds."""

    sos: int
    prefix: tuple[int, ...]  # words before {}, n of them, without SOS
    suffixes: tuple[tuple[int, ...], ...]  # class name, words behind {}, EOS; one a class


def tokenise_prompts(tokenizer: Tokenizer, template: str, class_names: Sequence[str]) -> PromptTokens:
    """Split every class's prompt into the template's words before `{}` and the rest with EOS.

    Args:
        tokenizer: the checkpoint's tokenizer.
        template: a text with one `{}`.
        class_names: K names.

    Returns:
        Prefix ids [n] and K suffixes of unequal length.

    Raises:
        UserError: nothing stands before `{}`, the name melts into the word before it, or a prompt is too long.
    """
    prefix = tokenizer.encode_words(template.split("{}")[0])
    if not prefix:
        raise UserError(f"template {template!r}: write words before {{}}; they are what is tuned")
    suffixes = []
    for name in class_names:
        words = tokenizer.encode_words(template.replace("{}", name))
        if words[: len(prefix)] != prefix:
            raise UserError(f"template {template!r}: put a space before {{}}")
        if len(words) + 2 > tokenizer.context_length:
            raise UserError(
                f"class name {name!r}: its prompt has {len(words) + 2} tokens, the model reads "
                f"{tokenizer.context_length}; shorten the name or the template"
            )
        suffixes.append((*words[len(prefix) :], tokenizer.eos_id))
    return PromptTokens(tokenizer.bos_id, tuple(prefix), tuple(suffixes))


@dataclass(frozen=True)
class PromptSpace:
    """ctx(w) = p0 + reshape(A w, (n, m)): p0 = `initial` [n, m], A = `projection` [n * m, d], both float32."""

    initial: mx.array
    projection: mx.array

    @property
    def dimension(self) -> int:
        """d, the length of w."""
        return int(self.projection.shape[1])

    def contexts(self, w: mx.array) -> mx.array:
        """The contexts [P, n, m] of a batch of vectors w [P, d]."""
        shift = (w @ self.projection.T).reshape(-1, *self.initial.shape)
        return self.initial + shift


def embedding_spread(text_model: TextModel) -> float:
    """Standard deviation of the token embeddings' entries, over evenly spaced rows of the table."""
    table = text_model.embeddings.token_embedding
    rows = int(table.weight.shape[0])
    sample = mx.arange(0, rows, max(1, rows // SAMPLED_ROWS))
    return cast(float, mx.std(table(sample).astype(mx.float32)).item())


def make_space(
    text_model: TextModel,
    tokens: PromptTokens,
    *,
    dimension: int,
    relative_scale: float,
    projection_std: float | None,
    seed: int,
) -> PromptSpace:
    """Draw A and look up p0.

    Args:
        text_model: the frozen text tower (its token table is read).
        tokens: the prompts, for the words before `{}`.
        dimension: d.
        relative_scale: spread of the shift's entries at |w_j| = 1, over the spread of the token embeddings.
        projection_std: the standard deviation of A's entries itself, in place of `relative_scale`.
        seed: of the run.

    Returns:
        The space; A's entries are N(0, std^2) with std = relative_scale * spread / sqrt(d) unless given.
    """
    initial = text_model.embeddings.token_embedding(mx.array(tokens.prefix)).astype(mx.float32)
    std = projection_std or relative_scale * embedding_spread(text_model) / math.sqrt(dimension)
    projection = std * mx.random.normal((initial.size, dimension), key=key_for(seed, "projection"))
    mx.eval(initial, projection)
    return PromptSpace(initial, projection)


@dataclass(frozen=True)
class Head:
    """A linear classifier of image features that is added to the text classifier.

    It may hold a multiple of the text classifier, too: with `text_share` 0 the two cancel, and what was fitted to
    the images decides alone.
    """

    kind: str  # as `--head` names it
    weight: mx.array  # [K, D] float32
    bias: mx.array  # [K] float32
    text_share: float  # what the text's logits count for in the sum
    image_share: float  # what those of the classifier that was fitted to images count for


@dataclass(frozen=True)
class Prompt:
    """A tuned prompt and the classifiers it stands for; it works without this library.

    `class_features` and `zero_shot_features` are [K, D] float32 of unit norm: an image feature f of unit norm has
    the logits `logit_scale * class_features @ f`, and `head.weight @ f + head.bias` is added where there is a head.
    """

    context: mx.array  # [n, m]
    w: mx.array  # [d]
    class_features: mx.array
    zero_shot_features: mx.array
    class_names: tuple[str, ...]
    folders: tuple[str, ...]
    logit_scale: float
    template: str
    head: Head | None = None

    def logits(self, embeddings: mx.array) -> mx.array:
        """What this prompt says of image features [N, D] of unit norm: [N, K], the head included."""
        text = self.text_logits(embeddings)
        return text if self.head is None else text + embeddings @ self.head.weight.T + self.head.bias

    def text_logits(self, embeddings: mx.array) -> mx.array:
        """What the tuned words alone say: [N, K]."""
        return self.logit_scale * (embeddings @ self.class_features.T)

    def zero_shot_logits(self, embeddings: mx.array) -> mx.array:
        """What the template's own words say: [N, K]."""
        return self.logit_scale * (embeddings @ self.zero_shot_features.T)

    def save(self, path: Path) -> None:
        """Write one safetensors file: the arrays, and the words as JSON in its metadata."""
        arrays = {
            "context": self.context,
            "w": self.w,
            "class_features": self.class_features,
            "zero_shot_features": self.zero_shot_features,
        }
        words = {
            "format": "mlx",
            "class_names": json.dumps(self.class_names),
            "folders": json.dumps(self.folders),
            "logit_scale": repr(self.logit_scale),
            "template": self.template,
        }
        if self.head is not None:
            arrays |= {"head_weight": self.head.weight, "head_bias": self.head.bias}
            words |= {
                "head": self.head.kind,
                "text_share": repr(self.head.text_share),
                "image_share": repr(self.head.image_share),
            }
        with atomic_path(path) as temporary:
            mx.save_safetensors(str(temporary), arrays, metadata=words)

    @classmethod
    def load(cls, path: Path) -> Prompt:
        """Read what `save` wrote.

        Raises:
            UserError: there is no such file, or it is not a prompt.
        """
        try:
            arrays, words = cast("tuple[dict[str, mx.array], dict[str, str]]", mx.load(str(path), return_metadata=True))
            return cls(
                **{name: arrays[name] for name in ("context", "w", "class_features", "zero_shot_features")},
                class_names=tuple(json.loads(words["class_names"])),
                folders=tuple(json.loads(words["folders"])),
                logit_scale=float(words["logit_scale"]),
                template=words["template"],
                head=_head(arrays, words),
            )
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise UserError(f"{path}: no readable prompt here; is this the folder that `tune` wrote?") from error


def _head(arrays: Mapping[str, mx.array], words: Mapping[str, str]) -> Head | None:
    """The head in a prompt's file, or None where it has none."""
    if "head" not in words:
        return None
    return Head(
        kind=words["head"],
        weight=arrays["head_weight"],
        bias=arrays["head_bias"],
        text_share=float(words["text_share"]),
        image_share=float(words["image_share"]),
    )
