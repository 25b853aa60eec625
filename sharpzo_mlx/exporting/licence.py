"""What a model's licence says of files that are made from it: nothing, a condition, or no.

The weights in an exported file are the model's, and its class features come from them. So a file carries the model's
licence, a licence with conditions on who may use it has to be accepted, and one without changed copies forbids it.

>>> check("mit", accepted=False, source="m")
"""

from __future__ import annotations

import re

from sharpzo_mlx.errors import UserError, notify

RESEARCH = re.compile(r"apple-amlr|.*\bnc\b.*|.*non-?commercial.*|.*research.*", re.IGNORECASE)
UNKNOWN = ("other", "unknown")  # what the hub lets a card say of a licence that it does not know
UNCHANGED = re.compile(r"cc-by(-nc)?-nd(-.*)?", re.IGNORECASE)  # Creative Commons without changed copies


def check(licence: str | None, *, accepted: bool, source: str) -> None:
    """Check that files may be made from a model.

    Args:
        licence: the name of the model's licence; None where its card names none. That and an unknown one give a notice.
        accepted: whether the user has read and accepted the licence.
        source: the model, for the message.

    Raises:
        UserError: the licence allows no changed copies, or it allows some uses only and was not accepted.
    """
    if licence is None or licence.lower() in UNKNOWN:
        notify(f"{source}: its card names no known licence; ask its source before you hand the exported file on")
        return
    if UNCHANGED.fullmatch(licence):
        raise UserError(f"{source}: its licence, {licence}, allows no changed copies; tune another model to export one")
    if RESEARCH.fullmatch(licence) and not accepted:
        raise UserError(
            f"{source}: its licence, {licence}, is for research or other non-commercial use only, and so is what is "
            "made from it; read it, and add --accept-licence if you keep to it"
        )
