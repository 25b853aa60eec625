"""One HTML page on which a person accepts or corrects labels by keyboard, and which saves a plan for `sort --plan`.

The page needs nothing else: pictures are small JPEGs inside it, its policy lets it fetch nothing, and the browser keeps
what was decided. A plan is JSON: `{"format": "sharpzo-mlx plan 1", "folder": "/photos", "labels": [{"path": "a.jpg",
"label": "cat"}, {"path": "b.jpg", "label": null}]}`; null is none of the classes. Only images whose label was decided
are in it, and of checked labels only those that change. For suggestions among images that a file lists or stores, which
`sort` cannot move, the page saves a CSV of absolute paths and labels for `add` instead.

>>> write_page(suggest("runs/pets-clip-0", "new/"), "review.html")  # doctest: +SKIP
PosixPath('review.html')
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from sharpzo_mlx.errors import UserError, notify
from sharpzo_mlx.files import atomic_write, check_place, expand
from sharpzo_mlx.images.load import ImageError, open_image
from sharpzo_mlx.images.thumbnail import as_data_url
from sharpzo_mlx.review.label_check import Duplicate, LabelCheck, Suspect
from sharpzo_mlx.review.suggestions import Suggestion, Suggestions

MOST_CARDS, MOST_TWINS = 500, 100
PICTURE, SMALL = 200, 80  # pixels of the longer side
HERE = Path(__file__).parent
ENDINGS = (".html", ".htm")


@dataclass(frozen=True)
class _Class:
    name: str
    folder: str


@dataclass(frozen=True)
class _Picture:
    """An image beside others: its path below the data set, and a data URL or nothing."""

    shown: str
    picture: str


@dataclass(frozen=True)
class _Card:
    """One image to decide on; classes are places in the page's list."""

    shown: str
    picture: str
    folder: int
    path: str
    given: int | None
    given_share: float
    suggested: int
    suggested_share: float
    choices: list[tuple[int, float]]
    remark: str = ""
    near: list[_Picture] = field(default_factory=list)

    def as_record(self) -> dict[str, Any]:
        """Return what the script needs."""
        choices = [place for place, _ in self.choices]
        names = ("folder", "path", "given", "suggested")
        return {**{name: getattr(self, name) for name in names}, "choices": choices}


@dataclass(frozen=True)
class _Page:
    """What the template fills in; the names are those of page.html.j2."""

    title: str
    lead: str
    folder: str
    none: bool
    listed: bool  # whether a list of labels is saved, and no plan
    classes: list[_Class]
    cards: list[_Card]
    twins: list[tuple[_Picture, _Picture, str]]
    policy: str
    style: str  # of this package, like the script: they and the embedded data are not escaped
    script: str
    data: str


def write_page(found: Suggestions | LabelCheck, path: str | Path) -> Path:
    """Write the page of some suggestions or of a check.

    Args:
        found: at most the first 500 of its images are shown; a notice says so where there are more.
        path: the file, ending in .html; one that is there is replaced.

    Returns:
        The file.

    Raises:
        UserError: the name does not end in .html, the file cannot be written, or the labels of the data set do not lie
            in its folders, so that no plan could correct them.
    """
    place = check_page_path(path)
    page = _of_check(found) if isinstance(found, LabelCheck) else _of_suggestions(found)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["share"] = lambda share: f"{100 * share:.1f}\u00a0%"
    template = environment.from_string((HERE / "page.html.j2").read_text(encoding="utf-8"))
    atomic_write(place, template.render(page=page))
    return place


def check_page_path(path: str | Path) -> Path:
    """Return the path of a page; UserError if its name is not one of a page, or it cannot be written there."""
    place = expand(path)
    if place.suffix.lower() not in ENDINGS or place.is_dir():
        raise UserError(f"--page {place}: end its name in .html")
    check_place(place.parent, "--page")
    return place


def no_page_error(dataset: Path) -> UserError:
    """Return the error of a page for a data set whose labels do not follow from its folders."""
    return UserError(
        f"{dataset}: its labels stand in a file, which a plan for `sort` cannot correct; leave --page out, and correct "
        "the file"
    )


def _of_suggestions(found: Suggestions) -> _Page:
    classes = list(map(_Class, found.class_names, found.class_folders))
    places = {name: place for place, name in enumerate(found.class_names)}
    cards = [_card_of_suggestion(item, found, places) for item in _first(found.items)]
    lead = f"{len(cards)} of {found.images} unlabelled images, those worth labelling first. Say what each one shows."
    folders = [("", found.folder)]
    return _make_page("Label next", lead, found.folder, folders, classes, cards, none=True, listed=found.listed)


def _card_of_suggestion(item: Suggestion, found: Suggestions, places: dict[str, int]) -> _Card:
    return _Card(
        shown=_below(item.path, found.folder),
        picture=_thumbnail(item.path, PICTURE),
        folder=0,
        path=os.path.abspath(item.path) if found.listed else _below(item.path, found.folder),
        given=None,
        given_share=0.0,
        suggested=places[item.label],
        suggested_share=item.probability,
        choices=[(places[name], share) for name, share in item.choices],
        remark="unlike all labelled images" if item.foreign else "",
    )


def _of_check(found: LabelCheck) -> _Page:
    if not found.by_folder:
        raise no_page_error(found.folder)
    classes = list(map(_Class, found.class_names, found.class_folders))
    places = {name: place for place, name in enumerate(found.class_names)}
    folders = sorted({(item.part.name, item.part.folder) for item in found.suspects})
    cards = [_card_of_suspect(item, found, places, folders) for item in _first(found.suspects)]
    pairs = [pair for pair in found.duplicates if pair.matters][:MOST_TWINS]
    lead = f"{len(found.suspects)} of {found.images} labels look wrong to a classifier of all other images."
    twins = [_pair(pair, found.folder) for pair in pairs]
    return _make_page("Check labels", lead, found.folder, folders, classes, cards, none=False, twins=twins)


def _card_of_suspect(
    item: Suspect, found: LabelCheck, places: dict[str, int], folders: Sequence[tuple[str, Path]]
) -> _Card:
    return _Card(
        shown=_below(item.path, found.folder),
        picture=_thumbnail(item.path, PICTURE),
        folder=folders.index((item.part.name, item.part.folder)),
        path=_below(item.path, item.part.folder),
        given=places[item.given],
        given_share=item.given_probability,
        suggested=places[item.suggested],
        suggested_share=item.suggested_probability,
        choices=[(places[name], share) for name, share in item.choices],
        near=[_Picture(_below(one.path, found.folder), _thumbnail(one.path, SMALL)) for one in item.neighbours],
    )


def _pair(pair: Duplicate, folder: Path) -> tuple[_Picture, _Picture, str]:
    one, other = (_Picture(_below(path, folder), _thumbnail(path, SMALL)) for path in (pair.path, pair.other))
    return one, other, "same file" if pair.same_content else "near-copy"


def _first(items: Sequence[Any]) -> Sequence[Any]:
    if len(items) > MOST_CARDS:
        notify(f"the page shows the first {MOST_CARDS} of {len(items)}")
    return items[:MOST_CARDS]


def _make_page(
    title: str,
    lead: str,
    folder: Path,
    folders: Sequence[tuple[str, Path]],
    classes: list[_Class],
    cards: list[_Card],
    *,
    none: bool,
    listed: bool = False,
    twins: Sequence[tuple[_Picture, _Picture, str]] = (),
) -> _Page:
    whole = "labels.csv" if listed else "plan.json"
    places = [{"path": os.path.abspath(path), "file": f"plan-{name}.json" if name else whole} for name, path in folders]
    content = {
        "folders": places,
        "classes": [{"name": one.name, "folder": one.folder} for one in classes],
        "items": [card.as_record() for card in cards],
        "none": none,
        "listed": listed,
    }
    key = hashlib.sha256(json.dumps([title, content]).encode()).hexdigest()[:32]
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    policy = f"default-src 'none'; img-src data:; style-src {_digest(style)}; script-src {_digest(script)}"
    return _Page(
        title=title,
        lead=lead,
        folder=os.path.abspath(folder),
        none=none,
        listed=listed,
        classes=classes,
        cards=cards,
        twins=list(twins),
        policy=f"{policy}; base-uri 'none'; form-action 'none'",
        style=style,
        script=script,
        data=embed({"key": key, **content}),
    )


def embed(content: object) -> str:
    """Return JSON that can stand in a script element: nothing in it ends the element or begins a comment."""
    text = json.dumps(content)  # ASCII alone, so that no separator of lines and no byte of a file name is bare
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _below(path: Path, folder: Path) -> str:
    """Return a path below a folder, with / between its parts."""
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.as_posix()


def _thumbnail(path: Path, size: int) -> str:
    try:
        return as_data_url(open_image(path), size)
    except (ImageError, OSError):  # gone or damaged since it was encoded
        return ""
