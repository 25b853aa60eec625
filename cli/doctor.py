"""`sharpzo-mlx doctor`: describe this machine, and name each problem of its setup with the remedy.

The exit code is 1 only if a problem keeps the program from working, or a step of `--full` failed; other problems make
it slower or poorer.

>>> sharpzo-mlx doctor  # doctest: +SKIP
"""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from sharpzo_mlx import files
from sharpzo_mlx.cli import wording
from sharpzo_mlx.cli.options import PATH
from sharpzo_mlx.doctor import setup
from sharpzo_mlx.doctor.findings import WORDS_AT, Finding, examine, lines
from sharpzo_mlx.errors import UserError

if TYPE_CHECKING:
    from sharpzo_mlx.doctor.report import FullReport
    from sharpzo_mlx.doctor.steps import Result, Started

DEFAULT_OUTPUT = Path("doctor.md")
INTERRUPTED = 130


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
@click.option("--quick", is_flag=True, help="Leave out the measurement of a query, which takes seconds.")
@click.option("--full", is_flag=True, help="Try everything that only this machine can show, in two or three minutes.")
@click.option("--output", type=PATH, help="The file of --full.  [default: doctor.md]")
@click.pass_context
def doctor_command(ctx: click.Context, *, as_json: bool, quick: bool, full: bool, output: Path | None) -> None:
    """Check this machine and say how to fix what is wrong.

    --full is for a machine that nobody has tried yet: it measures, tunes the demonstration, and writes one file to
    attach to an issue. Names of folders, of the user and of the computer are left out of it.
    """
    if output is not None and not full:
        raise click.UsageError("--output goes with --full")
    place = _find_place(output or DEFAULT_OUTPUT) if full else None
    checks = [check for check in setup.CHECKS if not (quick and check in setup.LONG_CHECKS)]
    findings = [examine(check) for check in checks]
    if place is None:
        if as_json:
            wording.echo_json({"findings": [vars(finding) for finding in findings]})
        else:
            _show(findings)
        ctx.exit(1 if any(finding.broken for finding in findings) else 0)
    if not as_json:
        _show(findings)
    ctx.exit(_check_in_full(findings, place, as_json=as_json))


def _show(findings: Iterable[Finding]) -> None:
    shown = [wording.escape(line) for finding in findings for line in lines(finding)]
    click.echo("\n".join(_fold(line) if wording.on_screen() else line for line in shown))


def _fold(line: str) -> str:
    """Return a line in the columns of the screen, broken between words; what follows stands under its words."""
    return textwrap.fill(
        line,
        max(WORDS_AT + 20, wording.screen_width()),
        subsequent_indent=" " * WORDS_AT,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _find_place(output: Path) -> Path:
    """Return the file of a full check, which must not be there yet and whose folder can be written to."""
    files.refuse_empty(output)
    if os.path.lexists(output):
        raise UserError(f"{output}: exists already; move it away, or name another file with --output")
    files.check_spelling(output)
    files.check_place(output.parent)
    return output


def _check_in_full(findings: list[Finding], place: Path, *, as_json: bool) -> int:
    """Take all steps, write the file as they go, and return the exit code."""
    from sharpzo_mlx.doctor import checklist, workspace
    from sharpzo_mlx.doctor.report import FullReport, format_report
    from sharpzo_mlx.doctor.report import as_json as plain
    from sharpzo_mlx.doctor.steps import Started, take_steps

    report, draw = FullReport.begin(findings), Drawing(sys.stderr)
    with suppress(KeyboardInterrupt), workspace.open_workspace(workspace.choose_sizes()) as place_of_steps:
        for record in take_steps(checklist.STEPS, place_of_steps):
            draw.draw(record)
            if isinstance(record, Started):
                report = replace(report, under_way=record.name)
            else:
                report = report.with_result(record)
                report = replace(report, whole=len(report.results) == len(checklist.STEPS) and not _is_stopped(report))
            files.atomic_write(place, format_report(report))
    if as_json:
        wording.echo_json(plain(report))
    else:
        click.echo(report.summary())
        click.echo(f"report: {wording.escape(str(place))}\nnext: attach it to an issue; it names no folder and no user")
    if not report.whole:
        return INTERRUPTED
    return 1 if report.failed else 0


def _is_stopped(report: FullReport) -> bool:
    return report.results[-1].outcome == "stopped"


class Drawing:
    """Shows the steps on a stream: a line for each result, and on a terminal the step under way."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._live = stream, stream.isatty()

    def draw(self, record: Started | Result) -> None:
        """Show one record."""
        from sharpzo_mlx.doctor.steps import Started

        if not isinstance(record, Started):
            words = f"{record.outcome:<14} {record.name:<24} {wording.duration(record.seconds):>10}  {record.words}"
            print(f"\r\033[K{words}" if self._live else words, file=self._stream, flush=True)
        elif self._live:
            print(f"{record.number} of {record.of}: {record.name} ...", end="", file=self._stream, flush=True)
