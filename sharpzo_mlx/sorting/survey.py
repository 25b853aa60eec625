"""Look over an order without touching anything: where its images would go, and what is there already.

>>> survey(order).classes  # doctest: +SKIP
{'cat': 33, 'dog': 20, 'unsorted': 5}
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from sharpzo_mlx.reading import reason
from sharpzo_mlx.sorting.arranging import Arrangement
from sharpzo_mlx.sorting.items import Failure, Order
from sharpzo_mlx.sorting.sidecars import Sidecars
from sharpzo_mlx.sorting.tags import make_tag

EXAMPLES = 3


@dataclass
class Survey:
    """What an order would do.

    Attributes:
        classes: the number of images by folder, or by label for tags.
        there: images that are in place or tagged already.
        numbered: images whose name would get a number.
        sidecars: files that would travel along.
        unlabelled: images that get no tag, because they are none of the classes.
        failures: files that would stay, and why.
        examples: the first images and their new paths, or the sidecars with their labels.
        renamed: labels whose folder is called otherwise.
    """

    classes: Counter[str] = field(default_factory=Counter)
    there: int = 0
    numbered: int = 0
    sidecars: int = 0
    unlabelled: int = 0
    failures: list[Failure] = field(default_factory=list)
    examples: list[tuple[str, str]] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)


def survey(order: Order) -> Survey:
    """Return what an order would do; files that cannot be read are among its failures."""
    return _survey_tags(order) if order.mode == "tag" else _survey_places(order)


def _survey_places(order: Order) -> Survey:
    found, arrangement = Survey(), Arrangement(order, pretend=True)
    for item in order.items:
        found.classes[arrangement.find_place(item)] += 1
        try:
            (order.folder / item.path).lstat()
            group = arrangement.arrange(item)
        except OSError as error:
            found.failures.append(Failure(item.path, reason(error)))
            continue
        found.there += group.there
        found.numbered += not group.there and group.number > 1
        found.sidecars += len(group.files) - (not group.there)
        if not group.there and len(found.examples) < EXAMPLES:
            found.examples.append((item.path, group.target))
    found.renamed = arrangement.find_renamed()
    return found


def _survey_tags(order: Order) -> Survey:
    found, sidecars = Survey(), Sidecars(order.folder, {item.path for item in order.items})
    for item in order.items:
        if item.label is None:
            found.unlabelled += 1
            continue
        found.classes[item.label] += 1
        try:
            made = make_tag(order, sidecars, item)
        except (OSError, ValueError) as error:
            found.failures.append(Failure(item.path, reason(error)))
            continue
        if made is None:
            found.there += 1
        else:
            found.examples += [(made[0].target, item.label)] if len(found.examples) < EXAMPLES else []
    return found
