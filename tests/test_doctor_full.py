"""`doctor --full`: every step passes here in small sizes, failures are recorded, the file is whole and private."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sharpzo_mlx.cli import main
from sharpzo_mlx.doctor import checklist, redaction, report, setup, workspace
from sharpzo_mlx.doctor.findings import Finding
from sharpzo_mlx.doctor.steps import Answer, NotHere, Result, Step, carry_out
from sharpzo_mlx.doctor.workspace import SMALL, Workspace
from sharpzo_mlx.errors import notify

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Small sizes in a folder of the test's own; the handler of the command line does not outlive the test."""
    monkeypatch.setattr(workspace, "choose_sizes", lambda: SMALL)
    monkeypatch.setattr(setup, "CHECKS", (setup.check_python, setup.check_caches))
    monkeypatch.chdir(tmp_path)
    yield
    logging.getLogger("sharpzo_mlx").handlers.clear()


def read(path: str = "doctor.md") -> report.FullReport:
    return report.parse_report(Path(path).read_text(encoding="utf-8"))


def use(monkeypatch: pytest.MonkeyPatch, *steps: Step) -> None:
    monkeypatch.setattr(checklist, "STEPS", steps)


def succeed(_: Workspace) -> Answer:
    return Answer("as it should be", {"number": 1.5, "endless": float("inf")})


def test_every_step_passes_here(capsys: Capture) -> None:
    cache = os.environ["SHARPZO_MLX_CACHE"]
    assert main.run(["doctor", "--full"]) == 0
    found = read()
    assert [one.name for one in found.results] == [step.name for step in checklist.STEPS]
    assert {one.name: one.words for one in found.results if one.outcome not in ("ok", "does not apply")} == {}
    assert found.whole
    by_name = {one.name: one.numbers for one in found.results}
    assert by_name["tuning twice"]["equal"] or found.versions["device"] != "Device(cpu, 0)"
    assert float(by_name["graph against NumPy"]["loss_difference"] or 1) < 1e-5
    assert by_name["the demonstration"]["queries"]
    assert float(by_name["a query"]["query_ms_2gb"] or 0) > 0
    assert os.environ["SHARPZO_MLX_CACHE"] == cache
    assert os.listdir() == ["doctor.md"]
    shown = capsys.readouterr()
    assert "report: doctor.md" in shown.out
    assert all(step.name in shown.err for step in checklist.STEPS)
    assert "note:" not in shown.err


def test_a_step_that_fails_is_recorded_and_the_next_ones_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Workspace) -> Answer:
        raise RuntimeError("[METAL] it gave\nup")

    def absent(_: Workspace) -> Answer:
        raise NotHere("no such thing")

    steps = Step("raises", fail), Step("is wrong", lambda _: Answer("far off", right=False)), Step("absent", absent)
    use(monkeypatch, *steps, Step("last", succeed))
    assert main.run(["doctor", "--full"]) == 1
    found = read()
    assert [(one.outcome, one.words) for one in found.results] == [
        ("failed", "RuntimeError: [METAL] it gave up"),
        ("failed", "far off"),
        ("does not apply", "no such thing"),
        ("ok", "as it should be"),
    ]
    assert found.results[-1].numbers == {"number": 1.5, "endless": None}
    text = Path("doctor.md").read_text()
    assert "4 steps: 1 ok, 2 failed, 1 does not apply" in text
    assert "| raises | failed | 0.0 | RuntimeError: [METAL] it gave up |" in text


def test_ctrl_c_keeps_what_is_done(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def interrupt(_: Workspace) -> Answer:
        raise KeyboardInterrupt

    use(monkeypatch, Step("first", succeed), Step("second", interrupt), Step("third", succeed))
    assert main.run(["doctor", "--full", "--output", "mine.md"]) == 130
    found = read("mine.md")
    assert [(one.name, one.outcome) for one in found.results] == [("first", "ok"), ("second", "stopped")]
    assert not found.whole
    assert "not whole" in capsys.readouterr().out


def test_a_process_that_ends_in_a_step_leaves_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file as the second step finds it, which would be there if that step ended the process."""
    seen: list[report.FullReport] = []

    def look(_: Workspace) -> Answer:
        seen.append(read())
        return succeed(_)

    use(monkeypatch, Step("first", succeed), Step("deadly", look))
    assert main.run(["doctor", "--full"]) == 0
    assert [one.name for one in seen[0].results] == ["first"]
    assert (seen[0].under_way, seen[0].whole) == ("deadly", False)
    assert "ended in: deadly" in seen[0].summary()


def test_nothing_is_overwritten(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    use(monkeypatch, Step("first", succeed))
    Path("doctor.md").write_text("mine")
    assert main.run(["doctor", "--full"]) == 2
    assert "doctor.md: exists already" in capsys.readouterr().err
    assert Path("doctor.md").read_text() == "mine"
    assert main.run(["doctor", "--full", "--output", "new/other.md"]) == 0
    assert read("new/other.md").whole


def test_output_goes_with_full(capsys: Capture) -> None:
    assert main.run(["doctor", "--output", "x.md"]) == 2
    assert "--output goes with --full" in capsys.readouterr().err
    assert not Path("x.md").exists()


def test_json_is_the_file_s(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    use(monkeypatch, Step("first", succeed))
    assert main.run(["doctor", "--full", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(json.dumps(report.as_json(read())))
    assert [one["name"] for one in printed["results"]] == ["first"]


def test_notices_are_kept_and_not_shown(capsys: Capture) -> None:
    def tell(_: Workspace) -> Answer:
        notify("3 images skipped")
        return succeed(_)

    with workspace.open_workspace(SMALL) as place:
        assert carry_out(Step("tells", tell), place).notices == ("3 images skipped",)
    assert capsys.readouterr().err == ""


def test_private_names_are_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = tmp_path / "Ann Example"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("LOGNAME", "annexample")
    monkeypatch.setattr(redaction.platform, "node", lambda: "Anns-Mac.local")  # type: ignore[attr-defined]
    words = (
        f"{home}/Library/Caches: no; /Volumes/Ann's disk/photos/cat.jpg; 12 GFLOP/s ViT-B/16 by annexample on Anns-Mac"
    )
    result = Result("step", "failed", words, 0.1, {"file": f"{home}/x.md"}, (f"{home}/y: skipped",))
    found = report.FullReport("now", {}, (Finding("caches", f"{home}/Client Ltd/c (0 B)"),), (result,), whole=True)
    text = report.format_report(found)
    for private in ("Ann", "annexample", "Volumes", "Client", str(tmp_path)):
        assert private not in text
    kept = report.parse_report(text)
    assert kept.findings[0].words == "~/… (0 B)"
    assert kept.results[0].numbers == {"file": "~/x.md"}
    assert kept.results[0].notices == ("~/…: skipped",)
    assert "12 GFLOP/s ViT-B/16 by USER on HOST" in kept.results[0].words
    assert "cat.jpg" in kept.results[0].words


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/Volumes/AnnsDisk (0 B)", "… (0 B)"),
        ("./Client/x.jpg, ./notes.txt", "./…/x.jpg, ./notes.txt"),
        ("~/Library/Caches/sharpzo-mlx (3 MB)", "~/…/sharpzo-mlx (3 MB)"),
        ("12 GFLOP/s, ViT-B/16, and/or, 1 / 2. The end", "12 GFLOP/s, ViT-B/16, and/or, 1 / 2. The end"),
        ("PYTHON/lib/python3.11/x.so", "PYTHON/lib/python3.11/x.so"),
    ],
)
def test_of_a_path_no_more_than_the_file_is_left(text: str, left: str) -> None:
    assert redaction.redact(text, redaction.Names(())) == left


def test_a_file_without_a_report_is_refused() -> None:
    with pytest.raises(ValueError, match="no report"):
        report.parse_report("# something else\n")
