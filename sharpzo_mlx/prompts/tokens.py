"""Split a template and its class names into the token ids that all classes share and those of each class.

>>> tokens = tokenise_prompts(clip.tokenizer, "a photo of a {}.", ["cat", "ox"])  # doctest: +SKIP
>>> len(tokens.prefix), len(tokens.suffixes)  # doctest: +SKIP
(4, 2)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sharpzo_mlx.errors import UserError

if TYPE_CHECKING:
    from sharpzo_mlx.clip.tokenizer import Tokenizer


@dataclass(frozen=True)
class PromptTokens:
    """The token ids of the prompts of K classes, split where the class name begins.

    Attributes:
        sos: the start token; None for a SigLIP, whose texts have none.
        prefix: the n tokens of the template's words before `{}`, without the start token.
        suffixes: for each class the tokens of its name, of the words behind `{}`, and the end token (EOS).
    """

    sos: int | None
    prefix: tuple[int, ...]
    suffixes: tuple[tuple[int, ...], ...]


def tokenise_prompts(tokenizer: Tokenizer, template: str, class_names: Sequence[str]) -> PromptTokens:
    """Tokenise the template with each class name and split the result at the class name.

    Args:
        tokenizer: the checkpoint's tokenizer.
        template: a text with one `{}`.
        class_names: the names of K classes.

    Returns:
        The n prefix tokens and K suffixes of unequal length.

    Raises:
        UserError: no word stands before `{}`, no space separates the name from the word before it, or a prompt is
            longer than the model reads.
    """
    prefix = tokenizer.encode_words(template.split("{}")[0].rstrip())
    if not prefix:
        raise UserError(f"template {template!r}: write words before {{}}; they are what is tuned")
    suffixes = []
    for name in class_names:
        words = tokenizer.encode_words(template.replace("{}", name))
        if words[: len(prefix)] != prefix:
            raise UserError(f"template {template!r}: put a space before {{}}")
        if len(words) > tokenizer.most_words:
            ends = tokenizer.context_length - tokenizer.most_words
            raise UserError(
                f"class name {name!r}: its prompt has {len(words) + ends} tokens, the model reads "
                f"{tokenizer.context_length}; shorten the name or the template"
            )
        suffixes.append((*words[len(prefix) :], tokenizer.eos_id))
    return PromptTokens(tokenizer.bos_id, tuple(prefix), tuple(suffixes))
