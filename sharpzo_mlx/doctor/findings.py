"""A finding: what one check of the setup found, and what to do about a problem.

>>> lines(Finding("precision", "full float32"))
['ok    precision      full float32']
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sharpzo_mlx.errors import UserError

NO_GPU = "run it on the Mac itself, outside of virtual machines and containers, or on Linux"
WORDS_AT = 21  # the column in which the words of a finding begin
REINSTALL = "install again: pip install ."


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        name: the checked part, in a word or two.
        words: the result in words.
        remedy: what to do about a problem; None if there is none.
        broken: whether the problem keeps the program from working.
    """

    name: str
    words: str
    remedy: str | None = None
    broken: bool = False


def examine(check: Callable[[], Finding]) -> Finding:
    """Run one check; a check that raises an error is a finding too."""
    name = check.__name__.removeprefix("check_").replace("_", " ")
    try:
        return check()
    except UserError as error:
        problem, _, remedy = str(error).partition("; ")
        return Finding(name, problem, remedy, broken=True)
    except Exception as error:  # the other checks must run, whatever is wrong with this machine
        remedy = NO_GPU if str(error).startswith("[metal") else REINSTALL
        return Finding(name, f"{type(error).__name__}: {error}", remedy, broken=True)


def lines(finding: Finding) -> list[str]:
    """Return a finding as one line, and a second line with the remedy if there is a problem."""
    mark = "FAIL" if finding.broken else "note" if finding.remedy else "ok"
    shown = [f"{mark:<5} {finding.name:<14} {finding.words}"]
    return shown + ([f"      {'':<14} -> {finding.remedy}"] if finding.remedy else [])
