"""Which licences let weights, and what was made from them, be passed on, and under which condition.

Apple's licence of research models lets them be passed on for research alone, with the agreement itself, a notice, and
a word on what was changed. So the file of the agreement has to be given, and it is sent along.

>>> check("ann/m", "mit", None, kind="model")
'mit'
"""

from __future__ import annotations

import re
from pathlib import Path

from sharpzo_mlx.convert import mobileclip
from sharpzo_mlx.errors import UserError, one_line
from sharpzo_mlx.reading import read_text, reason
from sharpzo_mlx.sharing.parcel import Kind

FREE = {
    *("mit", "apache-2.0", "bsd", "bsd-2-clause", "bsd-3-clause", "isc", "unlicense", "cc0-1.0", "openrail"),
    *("cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-3.0", "cc-by-sa-3.0"),
}
APPLE_NOTICE = (
    "Apple Machine Learning Research Model is licensed under the Apple Machine Learning Research Model License "
    "Agreement."
)
LARGEST = 1 << 20  # bytes of a licence file
SHORTEST = 200  # characters: a name is no licence text
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,49}")


def choose(known: str | None, given: str | None) -> str | None:
    """Return the licence: the one that the model's card names, or else the one that the user gives.

    Raises:
        UserError: the two contradict each other, or the user's is no name of a licence.
    """
    if given is None:
        return known
    if not _NAME.fullmatch(given):
        raise UserError(f"--licence {one_line(given)!r}: write the hub's name of a licence, such as mit or apache-2.0")
    if known not in (None, given):
        raise UserError(f"--licence {given}: the model's card says {known}; leave the option out")
    return given


def check(what: str, licence: str | None, text: str | None, *, kind: Kind) -> str | None:
    """Check that a licence lets something be passed on, and return it.

    Args:
        what: the run or model, for errors.
        licence: the hub's name of the licence; None where it is not known.
        text: the licence itself, where the user gives it.
        kind: a run of a model without a known licence is the user's own to judge, weights are not.

    Raises:
        UserError: it does not, or only with its text.
    """
    if licence in FREE or (text is not None and licence is not None):
        return licence
    if licence == mobileclip.LICENCE:
        raise UserError(
            f"{what}: {mobileclip.TERMS}; they may be passed on for research only and with Apple's agreement: give its "
            "text with --licence-file FILE"
        )
    if licence is not None:
        raise UserError(
            f"{what}: its licence, {one_line(licence)}, is none that is known to let it be passed on; if it does, give "
            "its text with --licence-file FILE"
        )
    if kind == "model":
        raise UserError(f"{what}: the licence of its weights is not known; ask their source, and say it with --licence")
    return None


def read_licence_text(path: Path | None) -> str | None:
    """Return the text of a licence file, or None without one.

    Raises:
        UserError: it cannot be read, or is too short for a licence.
    """
    if path is None:
        return None
    try:
        text = read_text(path, LARGEST)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {reason(error)}; name the licence's text") from error
    if len(text) < SHORTEST:
        raise UserError(f"{path}: too short for a licence; give the whole text")
    return text
