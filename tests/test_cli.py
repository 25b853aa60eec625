"""The command line as a whole: help, versions, exit codes, one line for each error, notices on stderr."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import pytest

from sharpzo_mlx.cli import main, wording
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.report import formatting
from sharpzo_mlx.runtime import startup

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], None]:
    """Put a command `probe` into the group that runs a function."""

    def install(body: Callable[[], Any]) -> None:
        module = type(sys)("probe_command")
        module.__dict__["probe"] = click.command("probe")(body)
        monkeypatch.setitem(sys.modules, "sharpzo_mlx.cli.probe_command", module)
        monkeypatch.setitem(main.COMMANDS, "probe", ("probe_command:probe", "A probe."))

    return install


def test_help_names_every_command_in_the_order_of_use(capsys: Capture) -> None:
    assert main.run(["--help"]) == 0
    shown = capsys.readouterr().out
    places = [shown.index(f"\n  {name} ") for name in main.COMMANDS]
    assert places == sorted(places)
    assert main.run([]) == 0
    assert capsys.readouterr().out == shown


def test_a_misspelt_command_is_answered_with_the_nearest(refused: Callable[..., str]) -> None:
    assert "no such command 'tnue'; did you mean 'tune'?" in refused("tnue", "photos")
    assert "No such command 'xyzzy'" in refused("xyzzy")


def test_version(capsys: Capture) -> None:
    assert main.run(["--version"]) == 0
    assert capsys.readouterr().out == f"sharpzo-mlx {version('sharpzo-mlx')}\n"


@pytest.mark.parametrize("name", list(main.COMMANDS))
def test_every_command_has_help_that_begins_with_its_line(name: str, capsys: Capture) -> None:
    assert main.run([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"Usage: sharpzo-mlx {name} ")
    loaded = main.cli.get_command(click.Context(main.cli), name)
    assert loaded is not None
    assert loaded.name == name


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["frobnicate"], "'frobnicate'"),
        (["--frobnicate"], "--frobnicate"),
        (["evaluate"], "'RUN'"),
        (["tune", "x", "--head", "round"], "'round'"),
        (["predict", "run", "a.jpg", "--top", "0"], "--top"),
    ],
)
def test_wrong_usage_is_one_line_and_2(words: list[str], expected: str, capsys: Capture) -> None:
    assert main.run(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert expected in err
    assert "--help`" in err


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["tune", ""], "DATASET"),
        (["tune", "x", "--output", ""], "--output"),
        (["evaluate", "", "x"], "RUN"),
        (["evaluate", "run", "x", ""], "FOLDER"),
        (["predict", "run", ""], "PATH"),
        (["compare", ""], "DATASET"),
        (["compare", "x", "--shift", ""], "--shift"),
        (["report", ""], "RUN"),
    ],
)
def test_an_empty_path_is_not_the_current_folder(words: list[str], name: str, capsys: Capture) -> None:
    assert main.run(words) == 2
    assert capsys.readouterr() == ("", f"error: {name} is empty: name a path, or . for the current folder\n")


def test_user_error_is_one_line_and_2(command: Any, capsys: Capture) -> None:
    def body() -> None:
        raise UserError("photos/: no class folders;\nput the images of each class in a folder of its own")

    command(body)
    assert main.run(["probe"]) == 2
    expected = "error: photos/: no class folders; put the images of each class in a folder of its own\n"
    assert capsys.readouterr() == ("", expected)


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), click.Abort()])
def test_interrupt_is_130(command: Any, capsys: Capture, raised: BaseException) -> None:
    def body() -> None:
        raise raised

    command(body)
    assert main.run(["probe"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_full_disk_is_one_line(command: Any, capsys: Capture) -> None:
    def body() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "runs/x/run.json")

    command(body)
    assert main.run(["probe"]) == 2
    assert capsys.readouterr().err == (
        "error: runs/x/run.json: no space left on device; make room; then give the same command again\n"
    )


def test_a_bug_keeps_its_traceback(command: Any) -> None:
    def body() -> None:
        raise ZeroDivisionError

    command(body)
    with pytest.raises(ZeroDivisionError):
        main.run(["probe"])


def test_a_file_that_vanishes_is_one_line(command: Any, capsys: Capture) -> None:
    def body() -> None:
        Path("does/not/exist").read_text()

    command(body)
    assert main.run(["probe"]) == 2
    assert capsys.readouterr().err == "error: does/not/exist: no such file or directory; name another path\n"


def test_other_system_errors_are_bugs(command: Any) -> None:
    def body() -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")

    command(body)
    with pytest.raises(OSError, match="Bad file descriptor"):
        main.run(["probe"])


def test_exit_code_of_a_command_is_kept(command: Any) -> None:
    def body() -> None:
        click.get_current_context().exit(7)

    command(body)
    assert main.run(["probe"]) == 7


def test_notices_come_out_once_on_stderr(command: Any, capsys: Capture) -> None:
    command(lambda: logging.getLogger("sharpzo_mlx").warning("%d images skipped", 3))
    assert main.run(["probe"]) == 0
    assert main.run(["probe"]) == 0
    assert capsys.readouterr() == ("", "note: 3 images skipped\n" * 2)


def test_machine_without_mlx_gets_one_line(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(startup, "unsupported", lambda: startup.INTEL_MAC)
    assert main.run(["doctor"]) == 2
    assert capsys.readouterr() == ("", f"error: {startup.INTEL_MAC}\n")


def test_help_is_fast() -> None:
    """Under 0.3 s on a quiet machine; the bound here leaves room for a busy one, since it takes the best of five."""
    code = [sys.executable, "-c", "from sharpzo_mlx.cli.main import run; run(['--help'])"]
    times = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run(code, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.6


def test_reader_that_has_seen_enough_ends_it_in_silence() -> None:
    code = "from sharpzo_mlx.cli.main import main; import sys; sys.argv = ['sharpzo-mlx', '--help']; main()"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.stderr == ""
    assert done.returncode in (0, 1, -signal.SIGPIPE)


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (2_075_000_000, "2.08 GB"), (63.4e6, "63.4 MB"), (5e12, "5 TB")],
)
def test_amounts_of_memory(size: float, words: str) -> None:
    assert wording.amount(size) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1 min 0 s"), (75, "1 min 15 s"), (7500, "2 h 5 min")],
)
def test_durations(seconds: float, words: str) -> None:
    assert wording.duration(seconds) == words


def test_table_is_aligned() -> None:
    shown = wording.aligned([("folder", "images"), ("a", "5"), ("longer name", "1234")])
    assert shown.split("\n") == ["folder       images", "a                 5", "longer name    1234"]


def test_a_wide_table_is_cut_between_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("folder", "one", "two"), ("/data/of/many/years/photos", "1", "2"), ("b", "10", "20")]
    assert formatting.aligned(rows, 27).split("\n") == [
        "folder            one  two",
        "…any/years/photos    1    2".replace("…any", "…ny"),
        "b                  10   20",
    ]
    assert formatting.aligned(rows, 22).split("\n") == [
        "folder            one",
        "…ny/years/photos    1",
        "b                  10",
        "",
        "folder            two",
        "…ny/years/photos    2",
        "b                  20",
    ]
    monkeypatch.setenv("COLUMNS", "22")
    assert wording.aligned(rows) == formatting.aligned(rows, 22)


def test_names_stay_whole_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a person's screen cuts them: what a program searches for is there."""
    monkeypatch.delenv("COLUMNS", raising=False)
    rows = [("folder", *(f"column {n}" for n in range(6))), ("x" * 70, *"123456")]
    lines = wording.aligned(rows).splitlines()
    assert [line.split()[0] for line in lines if line.startswith("x")] == ["x" * 70] * 2
    assert max(map(len, lines)) <= 70 + 56


def test_wide_characters_take_two_columns() -> None:
    assert formatting.aligned([("name", "n"), ("柴犬", "1"), ("e\u0301a", "22")]).split("\n") == [
        "name   n",
        "柴犬   1",
        "e\u0301a    22",
    ]


def test_json_is_standard_json(capsys: Capture) -> None:
    wording.echo_json({"a": float("nan"), "b": [float("inf"), 1.5, (2, "ü")], "c": {"d": None}})
    assert capsys.readouterr().out == '{"a": null, "b": [null, 1.5, [2, "ü"]], "c": {"d": null}}\n'


def test_missing_accuracies_are_dashes() -> None:
    assert (wording.percent(None), wording.points(None, 0.5), wording.points(0.25, 0.5)) == ("-", "-", "+25.0")


@pytest.mark.parametrize("code", [errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP])
def test_a_path_that_cannot_be_used_is_one_line(code: int, command: Any, capsys: Capture) -> None:
    def body() -> None:
        raise OSError(code, os.strerror(code), "photos/x")

    command(body)
    assert main.run(["probe"]) == 2
    assert capsys.readouterr().err == f"error: photos/x: {os.strerror(code).lower()}; name another path\n"


def test_a_link_that_leads_back_to_itself_is_one_line(command: Any, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "loop").symlink_to("loop")

    def body() -> None:
        (tmp_path / "loop").resolve()
        raise RuntimeError(f"Symlink loop from {str(tmp_path / 'loop')!r}")  # as before Python 3.13

    command(body)
    assert main.run(["probe"]) == 2
    expected = f"error: {tmp_path / 'loop'}: a link that leads back to itself; name another path\n"
    assert capsys.readouterr().err == expected
