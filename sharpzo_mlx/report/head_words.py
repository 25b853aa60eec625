"""Say in words what a run with a head is made of; the command line and the page use the same.

>>> from sharpzo_mlx.runs.record import HeadResult
>>> describe_head(HeadResult("gda", text=0.3, image=0.07, named=0.006, words_kept=False))
'words × 0.3, Gaussians × 0.07, words in their metric × 0.006'
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the help of the command line needs no records
    from sharpzo_mlx.runs.record import HeadResult


def describe_head(result: HeadResult) -> str:
    """Return the three parts of the learned classifier with their shares."""
    return f"words × {result.text:.3g}, Gaussians × {result.image:.3g}, words in their metric × {result.named:.3g}"


def describe_words(result: HeadResult) -> str:
    """Return whether the words are tuned ones, and why."""
    fall, error = result.words_gain, result.words_error
    if fall is None or error is None:
        return "plain, not searched"
    change = f"validation loss {-fall:+.3f} ± {error:.3f}"
    if result.words_kept:
        return f"tuned, {change}"
    if not fall and not error:
        return "plain, the search found none that add to the head"
    return f"plain, tuned ones are no clear gain: {change}"
