"""What a version of a run adds to the one before, and what that changed; it stands in run.json.

A run has no such record until something is added to it. Then its first version is what `tune` made.

>>> Version(number=1, latest=1, date="2026-11-30 12:00").describe()
'as tuned'
"""

from __future__ import annotations

from dataclasses import dataclass

from sharpzo_mlx.runs.json_record import Amount, Count, JsonRecord, PathText, Share, Text


@dataclass(frozen=True)
class AccuracyChange(JsonRecord):
    """The accuracy on some images before and after an addition, 0..1.

    Attributes:
        images: what they are, in words.
        count: how many.
        before: None where the version before has none of their classes, or where no image could be left out.
        after: None where no image could be left out.
    """

    images: Text
    count: Count
    before: Share | None
    after: Share | None


@dataclass(frozen=True)
class Version(JsonRecord):
    """One version of a run.

    Attributes:
        number: from 1, which `tune` made.
        latest: the highest number that was made so far; of a version that is not the present one it may be lower.
        date: local date and time at which it was made.
        parent: the version that it adds to; None for the first.
        folders: the folders that were added.
        images: how many images of them are new.
        classes: the names of the classes that came with images.
        named: those of the classes that came by name alone.
        accuracies: what that changed, by kind of images.
        by_class: the same for the classes whose accuracy on left-out images changed most, the losses first.
        seconds: the time that it took.
    """

    number: Count
    latest: Count
    date: Text
    parent: Count | None = None
    folders: tuple[PathText, ...] = ()
    images: Count = 0
    classes: tuple[Text, ...] = ()
    named: tuple[Text, ...] = ()
    accuracies: tuple[AccuracyChange, ...] = ()
    by_class: tuple[AccuracyChange, ...] = ()
    seconds: Amount = 0.0

    def describe(self) -> str:
        """Return in words what was added."""
        parts = [f"{self.images} image{'s' * (self.images != 1)}"] if self.images else []
        if self.classes:
            parts.append(f"new: {_shorten(self.classes)}")
        if self.named:
            parts.append(f"by name: {_shorten(self.named)}")
        return "; ".join(parts) or "as tuned"


def _shorten(names: tuple[str, ...], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
