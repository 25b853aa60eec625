"""Say in words what a run with a head is made of; the command line and the page use the same.

>>> describe_head(HeadResult("gda", text=0.3, image=0.07, named=0.006, words_kept=False))
'words × 0.3 + Gaussians of the images × 0.07 + words in their metric × 0.006, chosen on left-out images'
"""

from __future__ import annotations

from sharpzo_mlx.runs.record import HeadResult


def describe_head(result: HeadResult) -> str:
    """Return the three parts of the learned classifier with their shares."""
    return (
        f"words × {result.text:.3g} + Gaussians of the images × {result.image:.3g} + words in their metric "
        f"× {result.named:.3g}, chosen on left-out images"
    )


def describe_words(result: HeadResult) -> str:
    """Return whether the words are tuned ones, and why."""
    if result.words_gain is None or result.words_error is None:
        return "no words tuned: the head learns from the images alone"
    if not result.words_gain and not result.words_error:
        return "no words tuned: the search found none that add to the head"
    fall = f"fall of the validation loss by them {result.words_gain:+.3f} ± {result.words_error:.3f} nats an image"
    return (
        f"tuned words kept: {fall}" if result.words_kept else f"plain words, the tuned ones do not add enough: {fall}"
    )
