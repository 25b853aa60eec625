"""The options of `tune` are the fields of TuneConfig: all of them, with their names, kinds and limits."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharpzo_mlx.cli import main
from sharpzo_mlx.cli.options import parse_seconds
from sharpzo_mlx.cli.tune import chosen, continued, tune_command
from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.runs.record import DrawnImages, ModelRecord, RunRecord
from sharpzo_mlx.runs.run import Run

FIELDS = {item.name: item for item in dataclasses.fields(TuneConfig)}


def parse(*words: str) -> dict[str, Any]:
    """What the command is called with, less what is not an option of the configuration."""
    context = tune_command.make_context("tune", ["photos", *words])
    return {name: value for name, value in context.params.items() if name in FIELDS}


def typed(*words: str) -> dict[str, Any]:
    """The options among the words."""
    return {name: value for name, value in parse(*words).items() if value is not None}


def test_every_field_is_an_option_and_the_other_way_round() -> None:
    own = {"dataset", "model", "output", "resume", "report", "as_json"}
    assert {parameter.name for parameter in tune_command.params} - own == set(FIELDS)


def test_help_shows_every_option_its_words_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["tune", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for name, item in FIELDS.items():
        assert f"--{name.replace('_', '-')} " in shown
        default = "" if item.default is None else f" [{item.default}]"
        assert f"{item.metadata['help']}{default}" in shown
        assert f"{item.metadata['group']}:" in shown


def test_nothing_given_is_the_default_configuration() -> None:
    assert typed() == {}
    assert chosen(typed()) == TuneConfig()


def test_what_is_given_arrives_with_its_type() -> None:
    words = ["--shots", "4", "--seed", "0", "--rho", "0", "--covariance", "full", "--template", "a {}"]
    config = chosen(typed(*words))
    assert config == TuneConfig(shots=4, seed=0, rho=0.0, covariance="full", template="a {}")


def test_amounts_and_durations() -> None:
    config = chosen(typed("--memory-budget", "512MB", "--time-budget", "1.5m"))
    assert config == TuneConfig(memory_budget=512_000_000, time_budget=90.0)


def test_preset_gives_way_to_what_is_given_only() -> None:
    from sharpzo_mlx.presets import preset

    paper = preset("paper:dtd")
    assert paper != TuneConfig()
    assert chosen(typed("--preset", "paper:dtd")) == paper
    given_too = chosen(typed("--preset", "paper:dtd", "--population", "40", "--seed", "3"))
    assert given_too == dataclasses.replace(paper, population=40, seed=3)


def test_a_run_goes_on_with_its_own_options_unless_told(tmp_path: Path) -> None:
    own = TuneConfig(shots=3, rho=0.7, seed=5)
    assert continued(TuneConfig(), {}, tmp_path / "absent") == TuneConfig()
    record = RunRecord(
        status="running", dataset="photos", shots=3, model=ModelRecord("m", ""), images=DrawnImages((), ()),
        class_names=(), class_folders=(), versions={},
    )  # fmt: skip
    Run(tmp_path, own, record).save()
    assert continued(TuneConfig(), typed(), tmp_path) == own
    again = typed("--time-budget", "1h", "--rho", "0.2")  # a difference is for tune_steps to name
    assert continued(chosen(again), again, tmp_path) == dataclasses.replace(own, time_budget=3600.0, rho=0.2)


@pytest.mark.parametrize(
    "words",
    [
        ["--shots", "0"],
        ["--seed", "-1"],
        ["--population", "1.5"],
        ["--sigma", "nan"],
        ["--keep", "2"],
        ["--metric", "best"],
        ["--template", "no place"],
        ["--preset", "paper:mnist"],
        ["--time-budget", "soon"],
        ["--memory-budget", "lots"],
    ],
)
def test_a_refused_value_is_one_line_that_names_it(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is loaded: neither the data set nor a model is there."""
    assert main.run(["tune", "no-such-folder", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert words[1] in err


@given(st.floats(0, 1e6), st.sampled_from([("", 1), ("s", 1), ("m", 60), ("min", 60), ("h", 3600)]))
def test_durations(number: float, unit: tuple[str, int]) -> None:
    assert parse_seconds(f"{number:.6f}{unit[0]}") == pytest.approx(number * unit[1], abs=1e-2)


@pytest.mark.parametrize("text", ["", "s", "5 d", "1h30m", "-3s", "1e3"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(UserError, match="90s"):
        parse_seconds(text)


def test_a_context_of_click_is_not_changed_by_parsing() -> None:
    """Options are made once; two command lines do not see each other's values."""
    assert parse("--seed", "5")["seed"] == 5
    assert parse()["seed"] is None
    assert isinstance(tune_command, click.Command)
