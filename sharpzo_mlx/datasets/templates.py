"""Choose the prompt template of a data set, CoOp's for its eleven data sets, and read lists of templates.

A data set is recognised by its split file (`split_zhou_EuroSAT.json`, FGVC-Aircraft's lists) or by CoOp's name for
its folder (`eurosat`). One template differs from CoOp's: its "{} texture." for DTD has no words before the class name,
and those words are what is tuned.

>>> standard_template(Path("data/oxford_pets"))
'a photo of a {}, a type of pet.'
>>> standard_template(Path("photos")) is None
True

The zero-shot classifier of CLIP's authors is the mean over many templates (Radford et al., arXiv 2103.00020, section
3.1.4). Their lists are the files `templates_*.txt` beside this one; a user's list has the same format.

>>> read_templates("small")[0], len(read_templates("imagenet"))
('itap of a {}.', 80)
"""

from __future__ import annotations

from pathlib import Path

from sharpzo_mlx.datasets import aircraft
from sharpzo_mlx.datasets.coop import find_split_file
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.files import expand, refuse_empty
from sharpzo_mlx.reading import decode_text, read_bytes, reason

PLAIN = "a photo of a {}."
LISTS = ("imagenet", "small")  # the lists of templates that are shipped
LARGEST = 1 << 20  # bytes of a list of templates
_STANDARD: tuple[tuple[str, str, str], ...] = (  # name in split files, folder, template of CoOp (arXiv 2109.01134)
    ("OxfordPets", "oxford_pets", "a photo of a {}, a type of pet."),
    ("OxfordFlowers", "oxford_flowers", "a photo of a {}, a type of flower."),
    ("FGVCAircraft", "fgvc_aircraft", "a photo of a {}, a type of aircraft."),
    ("DescribableTextures", "dtd", "a photo of a {} texture."),
    ("EuroSAT", "eurosat", "a centered satellite photo of {}."),
    ("StanfordCars", "stanford_cars", PLAIN),
    ("Food101", "food-101", "a photo of {}, a type of food."),
    ("SUN397", "sun397", PLAIN),
    ("Caltech101", "caltech-101", PLAIN),
    ("UCF101", "ucf101", "a photo of a person doing {}."),
    ("ImageNet", "imagenet", PLAIN),
)


def standard_template(dataset: Path) -> str | None:
    """Return the template of a known data set, or None; `dataset` is its folder."""
    file = find_split_file(dataset) if dataset.is_dir() else None
    title = _title(file) if file else None
    for name, folder, template in _STANDARD:
        if title == name.casefold() or (title is None and dataset.resolve().name.casefold() == folder):
            return template
    return None


def _title(file: Path) -> str:
    return "fgvcaircraft" if file.name == aircraft.MARK else file.stem.removeprefix("split_zhou_").casefold()


def read_templates(source: str) -> tuple[str, ...]:
    """Read a list of templates; a template that is there twice counts once.

    Args:
        source: a name in LISTS, or the path of a UTF-8 text file with one template a line. Blank lines, and lines that
            begin with `#`, are left out.

    Returns:
        At least one template, each with one `{}`.

    Raises:
        UserError: the file cannot be read or has no template, or a line has not exactly one `{}`; the error names the
            file and the line.
    """
    refuse_empty(source)
    shipped = source in LISTS
    path = Path(__file__).with_name(f"templates_{source}.txt") if shipped else expand(source)
    rows = [(number, line.strip()) for number, line in enumerate(_read_text(path).split("\n"), 1)]
    rows = [(number, line) for number, line in rows if line and not line.startswith("#")]
    for number, line in rows:
        if line.count("{}") != 1:
            raise UserError(f"{path}: line {number} {line!r}: write {{}} once, where the class name goes")
    if not rows:
        raise UserError(f"{path}: no templates; write one a line, with {{}} for the class name")
    return tuple(dict.fromkeys(line for _, line in rows))


def _read_text(path: Path) -> str:
    try:
        content = read_bytes(path, LARGEST)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file of templates; give {', '.join(LISTS)} or a file") from error
    except (OSError, ValueError) as error:  # ValueError: too large, or a path with a null byte
        raise UserError(f"{path}: {reason(error)}; give {', '.join(LISTS)} or a text file") from error
    try:
        return decode_text(content)
    except ValueError as error:
        raise UserError(f"{path}: {error}; save the templates as UTF-8") from error
