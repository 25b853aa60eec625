"""Every command and every piece of Python in the documentation: it is run on painted images, or says why it is not.

A block is left out by `<!-- not run: REASON -->` before it, or by its kind in `NOT_RUN`. What is left out must be right
too: its commands, options and values exist, its names are public.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import documented_folder
import documents
import pytest
from documents import DOCUMENTS, ROOT, Snippet

import sharpzo_mlx
from sharpzo_mlx.cli import main
from sharpzo_mlx.cli.tune import apply_settings, collect_settings
from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.options import declared

NOT_RUN = {  # what a line matches -> why it is not run
    r"^docs/results/.*": "a measurement: its images are not shipped, or it takes hours",
    r".* sharpzo-mlx convert( (?!\S+\.pt)|$)": "downloads; test_convert_hub.py downloads from a stand-in",
    r".* sharpzo-mlx convert \S+\.pt": "the reader's; test_convert_training.py and test_convert_openai.py make some",
    r".* sharpzo-mlx tune .*--model (ViT|siglip)": "a model that was downloaded",
    r".* sharpzo-mlx compare ": "takes minutes to hours; test_comparison_command.py runs a small one",
    r".* sharpzo-mlx serve ": "runs until Ctrl-C; test_serving.py starts it",
    r".* sharpzo-mlx worker (?!--make-certificate)": "waits for a leader; test_cluster_commands.py has one",
    r".* sharpzo-mlx .*--cluster mac-": "needs two machines; test_cluster_commands.py has workers of this one",
    r".* sharpzo-mlx demo\b": "takes most of a minute; test_demo.py runs it",
    r".* sharpzo-mlx upload (?!.*--(dry-run|output))": "sends to the hub; test_upload_round_trip.py has a stand-in",
    r".* sharpzo-mlx (predict|evaluate|sort|export) OWNER/NAME": "downloads; test_upload_round_trip.py has a stand-in",
    r".* sharpzo-mlx export .*--to web": "fetches its runtime by npm; test_export_web.py makes one and opens it",
    r".* sharpzo-mlx export .*--to coreml": "coremltools is not for every machine; test_export_coreml.py runs it",
    r".* sharpzo-mlx sort --undo": "the journal's name holds the time of the sorting; test_sort_undo.py goes back",
    r".* sharpzo-mlx doctor --full": "takes minutes; test_doctor_full.py runs it",
    r".* python3 -m venv ": "installs; the workflow of the repository types it",
}
COMMANDS = [snippet for path in DOCUMENTS for snippet in documents.commands(path)]
PYTHON = [snippet for path in DOCUMENTS for snippet in documents.python_blocks(path)]
FIELDS = {one.name for one in declared(TuneConfig)}
TIMEOUT = 120
"""Seconds that a line or a block may take; what serves until Ctrl-C would not end."""


def reason_of(snippet: Snippet) -> str | None:
    """Return why a line is not run, or None."""
    line = f"{snippet.page} {snippet.code}"
    return snippet.reason or next((why for kind, why in NOT_RUN.items() if re.match(kind, line)), None)


def parse(words: list[str]) -> click.Context:
    """Parse the words after `sharpzo-mlx` without running anything."""
    context = click.Context(main.cli, info_name="sharpzo-mlx")
    if words[0].startswith("-"):
        return main.cli.make_context("sharpzo-mlx", list(words))
    group: click.Group = main.cli
    for number, word in enumerate(words):
        command = group.get_command(context, word)
        assert command is not None, f"no command {' '.join(words[: number + 1])}"
        if not isinstance(command, click.Group) or all(rest.startswith("-") for rest in words[number + 1 :]):
            return command.make_context(word, list(words[number + 1 :]), parent=context)
        group, context = command, click.Context(command, context, word)
    raise AssertionError("no command")


def check(words: list[str]) -> None:
    """Check that a call names a command, options and values that exist; for `tune`, its settings too."""
    given = parse(words).params
    if words[0] == "tune":
        own = {name: value for name, value in given.items() if name in FIELDS}
        layers = collect_settings(own, preset=given["preset"], assignments=given["assignments"], settings_file=None)
        apply_settings(TuneConfig(), layers)


@pytest.mark.parametrize("snippet", COMMANDS, ids=str)
def test_command_lines_are_right(snippet: Snippet) -> None:
    for words in documents.calls(snippet.code):
        check(words)


@pytest.mark.parametrize(
    "line",
    [
        "sharpzo-mlx tune photos/ --shot 16",
        "sharpzo-mlx predict RUN new.jpg --tops 3",
        "sharpzo-mlx predict RUN new.jpg --top 0",
        "sharpzo-mlx tune photos/ --set stage2.draw=48",
        "sharpzo-mlx tune photos/ --shots 0",
        "find photos | sharpzo-mlx predicts RUN -",
        "sharpzo-mlx models remove",
    ],
)
def test_a_wrong_line_would_be_found(line: str) -> None:
    (words,) = documents.calls(line)
    with pytest.raises((click.ClickException, sharpzo_mlx.UserError, AssertionError)):
        check(words)


def options_of(group: click.Group, name: str) -> set[str]:
    """Return the options of a command and of the commands in it."""
    context = click.Context(group)
    command = group.get_command(context, name)
    assert command is not None
    inner = command.list_commands(context) if isinstance(command, click.Group) else []
    own = {word for one in command.get_params(context) for word in (*one.opts, *one.secondary_opts)}
    return own.union(*(options_of(command, one) for one in inner if isinstance(command, click.Group)))


@pytest.mark.parametrize(
    "path", [p for p in DOCUMENTS if p.parent.name in ("guide", "reference")], ids=lambda p: p.name
)
def test_options_in_prose_exist(path: Path) -> None:
    """`--top` in the text is an option of some command; `evaluate --foreign` is one of `evaluate`."""
    options = {name: options_of(main.cli, name) for name in main.COMMANDS}
    known = set().union(*options.values(), {"--version"})
    wrong = [
        f"{command} {option}".strip()
        for command, option in documents.spoken_options(path)
        if option not in options.get(command, known)
    ]
    assert wrong == []


def test_every_reason_has_a_line() -> None:
    lines = [f"{snippet.page} {snippet.code}" for snippet in COMMANDS if snippet.reason is None]
    assert [kind for kind in NOT_RUN if not any(re.match(kind, line) for line in lines)] == []


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with the names of the documentation, with its runs and its cache."""
    root = documented_folder.make_folder(tmp_path_factory.mktemp("documented"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("SHARPZO_MLX_CACHE", str(root / "cache"))
        documented_folder.make_default_model()
        documented_folder.make_runs(root)
    return root


@pytest.fixture
def workplace(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to a copy of the folder, without a network."""
    place = tmp_path / "place"
    shutil.copytree(prepared, place)
    monkeypatch.chdir(place)
    monkeypatch.setenv("SHARPZO_MLX_CACHE", str(place / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return place


@contextmanager
def within(seconds: int, what: str) -> Iterator[None]:
    """Fail if the block takes longer."""

    def stop(*_: object) -> None:
        pytest.fail(f"{what} has not ended after {seconds} s: mark it as not run, or make it smaller")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


RUN = sorted(
    (snippet for snippet in [*COMMANDS, *PYTHON] if reason_of(snippet) is None), key=lambda one: (one.page, one.line)
)


@pytest.mark.parametrize("page", sorted({snippet.page for snippet in RUN}))
def test_page_runs(page: str, workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The commands and the Python of a page one after another, as a reader types them."""
    names: dict[str, object] = {"__name__": "__main__"}
    for snippet in (one for one in RUN if one.page == page):
        with within(TIMEOUT, str(snippet)):
            if snippet in PYTHON:
                exec(compile(snippet.code, str(snippet), "exec"), names)
                continue
            code = run_line(snippet.code, workplace)
        out, err = capfd.readouterr()
        assert code == 0, f"{snippet}: {snippet.code}\n{out}{err}\nrun it on names of documented_folder.py, or mark it"


def run_line(line: str, workplace: Path) -> int:
    """Run a line of a shell; what an earlier line of the page has written makes place for another run or export."""
    if not documents.is_plain(line):
        return run_in_shell(line, workplace)
    (words,) = documents.calls(line)
    if words[0] == "tune" and "--output" not in words:
        shutil.rmtree(workplace / "runs" / "photos-openai--clip-vit-base-patch16-0", ignore_errors=True)
    if words[0] == "export" and "--output" in words:
        shutil.rmtree(workplace / words[words.index("--output") + 1], ignore_errors=True)
    return main.run(words)


def run_in_shell(line: str, workplace: Path) -> int:
    """Run a line with pipes or redirections in bash."""
    program = workplace / "bin" / documents.PROGRAM
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!{sys.executable}\nfrom sharpzo_mlx.cli.main import main\n\nmain()\n")
    program.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
    }
    shell = ["bash", "-o", "pipefail", "-c", line]
    return subprocess.run(shell, cwd=workplace, env=environment).returncode


@pytest.mark.parametrize("snippet", PYTHON, ids=str)
def test_python_is_valid_and_public(snippet: Snippet) -> None:
    compile(snippet.code, str(snippet), "exec")
    assert set(re.findall(r"\bsz\.(\w+)", snippet.code)) <= {*sharpzo_mlx.__all__, "__all__"}
