"""The options of `tune` are the fields of TuneConfig; `--set` and `--config` reach every other setting."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import pytest

from sharpzo_mlx.cli import main
from sharpzo_mlx.cli.tune import apply_settings, collect_settings, continue_config, tune_command
from sharpzo_mlx.config import TuneConfig, names
from sharpzo_mlx.optimisers.params import STAGE2
from sharpzo_mlx.options import declared
from sharpzo_mlx.presets import preset
from sharpzo_mlx.runs.record import DrawnImages, ModelRecord, RunRecord
from sharpzo_mlx.runs.run import Run
from sharpzo_mlx.runs.settings_file import as_toml

FIELDS = {one.name: one for one in declared(TuneConfig)}


def parse(*words: str) -> dict[str, Any]:
    """What the command is called with."""
    return tune_command.make_context("tune", ["photos", *words]).params


def config_of(*words: str) -> TuneConfig:
    """The configuration of a command line."""
    return apply_settings(TuneConfig(), layers_of(*words))


def layers_of(*words: str) -> list[Mapping[str, Any]]:
    given = parse(*words)
    own = {name: value for name, value in given.items() if name in FIELDS}
    return collect_settings(
        own, preset=given["preset"], assignments=given["assignments"], settings_file=given["settings_file"]
    )


def test_every_field_is_an_option_and_the_other_way_round() -> None:
    own = {"dataset", "model", "output", "resume", "report", "as_json", "preset", "assignments", "settings_file"}
    own |= {"list_settings", "cluster", "certificate", "insecure"}
    assert {parameter.name for parameter in tune_command.params} - own == set(FIELDS)


def test_help_shows_every_option_its_words_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["tune", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split()).lower()
    for one in FIELDS.values():
        assert f"--{one.flag} " in shown
        default = "" if one.default is None else f" [{one.default}]"
        assert f"{one.limits.help}{default}".lower() in shown


def test_help_fits_a_screen_of_forty_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main.run(["tune", "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 40
    assert max(map(len, lines)) <= 80


def test_all_settings_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["tune", "--list-settings"]) == 0
    shown = capsys.readouterr().out.splitlines()
    for optimiser in STAGE2:
        for name in (name for name, _ in names(optimiser) if "." in name):
            assert any(line.split()[0] == name for line in shown), name


def test_a_setting_that_is_given_twice_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["tune", "photos", "--set", "stage2.draws=3", "--set", "stage2.draws=4"]) == 2
    assert "--set stage2.draws: is there twice" in capsys.readouterr().err


def test_nothing_given_is_the_default_configuration() -> None:
    assert config_of() == TuneConfig()


def test_what_is_given_arrives_with_its_type() -> None:
    words = ["--shots", "4", "--seed", "0", "--set", "sharpness.rho=0", "--set", "stage1.covariance = full"]
    config = config_of(*words, "--template", "a {}")
    expected = TuneConfig(shots=4, seed=0, template="a {}")
    assert config == expected.with_settings({"sharpness.rho": 0.0, "stage1.covariance": "full"})


def test_amounts_and_durations() -> None:
    config = config_of("--memory-budget", "512MB", "--time-budget", "1.5m")
    assert config == TuneConfig(memory_budget=512_000_000, time_budget=90.0)


def test_preset_gives_way_to_what_is_given_only() -> None:
    paper = preset("paper:dtd")
    assert paper != TuneConfig()
    assert config_of("--preset", "paper:dtd") == paper
    given_too = config_of("--preset", "paper:dtd", "--set", "stage1.population=30", "--seed", "3")
    assert given_too == dataclasses.replace(paper, seed=3).with_settings({"stage1.population": 30})


def test_a_settings_file_gives_way_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = TuneConfig(shots=3, seed=9).with_settings({"stage2.draws": 7})
    (tmp_path / "own.toml").write_text(as_toml(own))
    config = config_of("--config", str(tmp_path / "own.toml"), "--seed", "2", "--set", "stage2.radius=1")
    assert config == dataclasses.replace(own, seed=2).with_settings({"stage2.radius": 1.0})
    both = ["--config", str(tmp_path / "own.toml"), "--preset", "paper"]
    assert main.run(["tune", "photos", *both]) == 2
    assert "--preset and --config contradict each other" in capsys.readouterr().err


def test_a_run_goes_on_with_its_own_options_unless_told(tmp_path: Path) -> None:
    own = TuneConfig(shots=3, seed=5).with_settings({"sharpness.rho": 0.7})
    assert continue_config(TuneConfig(), [], tmp_path / "absent") == TuneConfig()
    record = RunRecord(
        status="running", dataset="photos", shots=3, model=ModelRecord("m", ""), images=DrawnImages((), ()),
        class_names=(), class_folders=(), versions={},
    )  # fmt: skip
    Run(tmp_path, own, record).save()
    assert continue_config(TuneConfig(), layers_of(), tmp_path) == own
    again = layers_of("--time-budget", "1h", "--set", "sharpness.rho=0.2")  # a difference is for tune_steps to name
    expected = dataclasses.replace(own, time_budget=3600.0).with_settings({"sharpness.rho": 0.2})
    assert continue_config(TuneConfig(), again, tmp_path) == expected


@pytest.mark.parametrize(
    "words",
    [
        ["--shots", "0"],
        ["--seed", "-1"],
        ["--set", "stage1.population=1.5"],
        ["--set", "stage1.sigma=nan"],
        ["--set", "pruning.keep=2"],
        ["--set", "pruning.metric=best"],
        ["--set", "stage2.nothing=1"],
        ["--set", "stage2.draws"],
        ["--head", "lda"],
        ["--config", "no-such-file.toml"],
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
    assert words[1].split("=")[0] in err


def test_a_context_of_click_is_not_changed_by_parsing() -> None:
    """Options are made once; two command lines do not see each other's values."""
    assert parse("--seed", "5")["seed"] == 5
    assert parse()["seed"] is None
    assert isinstance(tune_command, click.Command)
