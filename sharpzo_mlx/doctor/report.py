"""Write the report of a full check: one Markdown file with a table for people and all figures as JSON.

The file is written whole before each step, and names the step that is under way: if a step ends the process, the file
says which one it was.

>>> parse_report(format_report(FullReport.begin([]))).results
()
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from typing import Any

from sharpzo_mlx.doctor.findings import Finding, lines
from sharpzo_mlx.doctor.redaction import find_names, redact_all
from sharpzo_mlx.doctor.steps import FAILED, NOT_HERE, OK, STOPPED, Result
from sharpzo_mlx.report.formatting import duration
from sharpzo_mlx.runs.versions import versions

OUTCOMES = (OK, FAILED, NOT_HERE, STOPPED)
_FENCE = "```"


@dataclass(frozen=True)
class FullReport:
    """What a full check has found so far.

    Attributes:
        date: when it began, UTC.
        versions: of the software, and the device.
        findings: of the setup.
        results: of the steps that are over.
        under_way: the name of the step that is being taken; None between the steps and at the end.
        whole: whether all steps were taken.
    """

    date: str
    versions: dict[str, str]
    findings: tuple[Finding, ...]
    results: tuple[Result, ...] = ()
    under_way: str | None = None
    whole: bool = False

    @classmethod
    def begin(cls, findings: Iterable[Finding]) -> FullReport:
        """Return the report before the first step."""
        return cls(datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"), versions(), tuple(findings))

    def with_result(self, result: Result) -> FullReport:
        """Return the report with one more result."""
        return replace(self, results=(*self.results, result), under_way=None)

    @property
    def failed(self) -> bool:
        """Whether a step failed or the setup is broken."""
        return any(finding.broken for finding in self.findings) or any(one.outcome == FAILED for one in self.results)

    def summary(self) -> str:
        """Return in words how many steps had which outcome."""
        counts = [(sum(one.outcome == outcome for one in self.results), outcome) for outcome in OUTCOMES]
        told = ", ".join(f"{count} {outcome}" for count, outcome in counts if count) or "none"
        end = "" if self.whole else f"; not whole, ended in: {self.under_way or 'between two steps'}"
        if self.results and self.results[-1].outcome == STOPPED:
            end = "; not whole"
        return f"{len(self.results)} steps: {told}; {duration(sum(one.seconds for one in self.results))}{end}"


def as_json(report: FullReport) -> dict[str, Any]:
    """Return the report as plain values without private names; numbers that are not finite become null."""
    plain: dict[str, Any] = redact_all(_finite(asdict(report)), find_names())
    return plain


def format_report(report: FullReport) -> str:
    """Return the report as Markdown; its last block is the JSON of `as_json`."""
    plain = as_json(report)
    found = [line for finding in plain["findings"] for line in lines(Finding(**finding))]
    rows = [
        f"| {_cell(one['name'])} | {one['outcome']} | {one['seconds']:.1f} | {_cell(one['words'])} |"
        for one in plain["results"]
    ]
    return "\n".join(
        [
            "# sharpzo-mlx doctor --full",
            "",
            f"{report.date}. {report.summary()}.",
            "",
            _FENCE,
            *found,
            _FENCE,
            "",
            "| step | outcome | s | what was found |",
            "|---|---|---|---|",
            *rows,
            "",
            "All figures:",
            "",
            f"{_FENCE}json",
            json.dumps(plain, indent=1, ensure_ascii=False),
            _FENCE,
            "",
        ]
    )


def parse_report(text: str) -> FullReport:
    """Return the report that a file holds.

    Raises:
        ValueError: the text is no such report.
    """
    _, found, rest = text.rpartition(f"{_FENCE}json\n")
    if not found:
        raise ValueError("no report of doctor --full: it has no JSON")
    plain = json.loads(rest.rsplit(_FENCE, 1)[0])
    findings = tuple(Finding(**finding) for finding in plain.pop("findings"))
    return FullReport(
        findings=findings,
        results=tuple(Result(**{**one, "notices": tuple(one["notices"])}) for one in plain.pop("results")),
        **plain,
    )


def _cell(words: str) -> str:
    return words.replace("|", "\\|")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value
