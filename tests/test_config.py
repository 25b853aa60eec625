"""Settings are checked when they are made, are reached by name and survive their file; presets are the paper's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sharpzo_mlx.cli.options_page import page
from sharpzo_mlx.config import TuneConfig, names
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.optimisers.params import GaussNewtonParams, ZOSGDParams
from sharpzo_mlx.presets import PAPER, preset
from sharpzo_mlx.runs.settings_file import as_toml, read_settings

SGD = {"stage2.optimiser": "zo-sgd"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shots": 0}, "shots 0: must be at least 1"),
        ({"sharpness.rho": -0.1}, r"sharpness.rho -0\.1: must be at least 0"),
        ({"stage1.sigma": 0.0}, r"stage1.sigma 0\.0: must be above 0"),
        ({"pruning.keep": 1.5}, r"pruning.keep 1\.5: must be at most 1"),
        ({"stage1.sigma": float("nan")}, "finite"),
        ({**SGD, "stage2.rule": "newton"}, "choose one of sgd"),
        ({**SGD, "stage2.beta1": 1.0}, "must be below 1"),
        ({"stage2.exploration": 1.5}, "must be at most 1"),
        ({"stage2.exploration_steps": 0}, "must be at least 1"),
        ({"stage2.optimiser": "newton"}, "choose one of gauss-newton, zo-sgd"),
        ({"seed": 1.5}, "whole number"),
        ({"seed": True}, "whole number"),
        ({"seed": "one"}, "seed 'one': give a whole number"),
        ({"stage2.draws": "1_000"}, "give a whole number"),
        ({"query_budget": "5x"}, "query-budget '5x': give a whole number"),
        ({"stage2.optimiser": ["zo-sgd"]}, "choose one of gauss-newton, zo-sgd"),
        ({"stage2.optimiser": {}}, "choose one of gauss-newton, zo-sgd"),
        ({"stage2.radius": 10**400}, "give a finite number"),
        ({"sharpness.mu": 1e-300}, "must be at least 1e-12"),
        ({"stage2.draws": {"a": 1}}, "give a whole number"),
        ({"time_budget": "-3s"}, "time-budget: '-3s' is not a duration"),
        ({"memory_budget": "0"}, "memory-budget: '0' is less than one byte"),
        ({"stage1.population": None}, "a value is needed"),
        ({"stage2.radius": "fast"}, "give a number"),
        ({"space.dimension": 20_000_000}, "space.dimension 20000000: must be at most 65536"),
        (
            {"space.dimension": 5000, "stage1.covariance": "full"},
            "space.dimension 5000: must be at most 4096 with stage1.covariance full",
        ),
        ({"stage1.population": 10**20}, "must be at most 65536"),
        ({"stage2.draws": 10**9}, "must be at most 65536"),
        ({"steps": 10**12}, r"steps 1000000000000: must be at most 1e\+09"),
        ({"stage2.radius": 1e300}, r"must be at most 1e\+06"),
        ({"template": "a photo"}, "write {} once"),
        ({"template": 5}, "write {} once"),
        ({"template": "{} and {}"}, "write {} once"),
        ({"time_budget": "soon"}, "90s, 5m or 1h"),
        ({"memory_budget": "lots"}, "512MB"),
    ],
)
def test_bad_values_are_named_with_what_is_allowed(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TuneConfig().with_settings(changes)


@pytest.mark.parametrize(
    "changes",
    [{"shots": 0}, {"seed": 1.5}, {"template": "a photo"}, {"steps": True}, {"stage2": 3}, {"pruning": None}],
)
def test_fields_are_checked_where_they_are_given(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(changes))):
        TuneConfig(**changes)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("stage2.drws", r"did you mean stage2\.draws\?"),
        ("draws", r"did you mean stage2\.draws\?"),
        ("rho", r"did you mean sharpness\.rho\?"),
        ("query_budgt", "did you mean query_budget"),
        ("stage2.learning_rate", r"a setting of stage2\.optimiser zo-sgd; gauss-newton has .*stage2\.radius"),
        ("zzz", "no such setting; .*--list-settings"),
        ("", "'': no such setting"),
        ("stage2", r"a group of settings; write stage2\.NAME"),
    ],
)
def test_a_wrong_name_gets_the_nearest_right_one(name: str, hint: str) -> None:
    with pytest.raises(UserError, match=hint):
        TuneConfig().with_settings({name: 1})


def test_settings_are_read_from_text() -> None:
    given = {
        "shots": "4", "time_budget": "1.5m", "memory_budget": "512MB", "pruning.directions": "none",
        "stage1.covariance": "full", "sharpness.rho": "0", "template": "a {}",
    }  # fmt: skip
    config = TuneConfig().with_settings(given)
    assert (config.shots, config.time_budget, config.memory_budget) == (4, 90.0, 512_000_000)
    assert (config.pruning.directions, config.stage1.covariance, config.sharpness.rho) == (None, "full", 0.0)
    assert config.template == "a {}"


def test_another_optimiser_begins_with_its_own_defaults() -> None:
    config = TuneConfig().with_settings({"stage2.draws": 7}).with_settings({**SGD, "stage2.rule": "adam"})
    assert config.stage2 == ZOSGDParams(rule="adam")
    assert config.with_settings({"stage2.optimiser": "gauss-newton"}).stage2 == GaussNewtonParams()
    assert config.with_settings({"stage2.optimiser": "zo-sgd"}) == config


def test_settings_survive_their_files(tmp_path: Path) -> None:
    changed = {"shots": 3, "sharpness.rho": 0.25, "query_budget": 99, "pruning.directions": None, **SGD}
    for config in (TuneConfig(), TuneConfig().with_settings(changed), preset("paper:dtd", seed=7)):
        assert TuneConfig.from_json(config.to_json()) == config
        path = tmp_path / "config.toml"
        path.write_text(as_toml(config))
        assert TuneConfig().with_settings(read_settings(path)) == config
    with pytest.raises(UserError, match="speed: no such setting"):
        TuneConfig.from_json({**TuneConfig().to_json(), "speed": 1})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shots = ", "not a TOML file"),
        ("'stage2.draws' = 4\n[stage2]\ndraws = 5\n", "stage2.draws is there twice"),
        ("a" * (1 << 21), "too large"),
        (None, "no such settings file"),
        (b"\xff", "TOML"),
    ],
)
def test_a_settings_file_that_cannot_be_read_is_one_line(
    tmp_path: Path, text: str | bytes | None, message: str
) -> None:
    path = tmp_path / "bad.toml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message) as error:
        read_settings(path)
    assert str(path) in str(error.value)


def test_every_setting_explains_itself_and_is_one_that_works() -> None:
    for optimiser in ("gauss-newton", "zo-sgd"):
        base = TuneConfig().with_settings({"stage2.optimiser": optimiser})
        for name, one in names(optimiser):
            assert one.limits.help, name
            assert base.with_settings({name: base.settings()[name]}) == base


def test_the_papers_settings() -> None:
    config = preset("paper", seed=4)
    assert (config.stage1.population, config.space.dimension, config.sharpness.rho, config.steps) == (
        40,
        512,
        0.1,
        20_000,
    )
    assert (config.sharpness.estimator, config.stage1.covariance, config.pruning.keep) == ("cge", "full", 0.5)
    assert config.stage2 == ZOSGDParams(
        learning_rate=1e-3, rule="sgd", schedule="constant", draws=1, mu=1e-3, averaging=0.0
    )
    assert (config.stage1.sigma, config.generations, config.seed) == (0.4, 500, 4)
    dtd = preset("paper:dtd").with_settings({"pruning.keep": 0.1})
    assert (dtd.sharpness.mu, dtd.space.projection_std, dtd.generations, dtd.pruning.keep) == (1e-5, 1.0, 300, 0.1)
    assert len(PAPER) == 11
    for name, (sigma, *_) in PAPER.items():
        assert preset(f"paper:{name}").stage1.sigma == sigma


def test_what_is_given_beside_a_preset_is_kept() -> None:
    own = GaussNewtonParams(draws=8)
    assert preset("paper", stage2=own, generations=3).stage2 == own
    assert preset("paper", generations=3).generations == 3


@pytest.mark.parametrize("name", ["papers", "paper:mnist", "paper:", "default:", ":", ""])
def test_unknown_presets_are_named(name: str) -> None:
    with pytest.raises(UserError, match="choose default"):
        preset(name)


def test_the_reference_page_is_that_of_the_code() -> None:
    path = Path(__file__).parents[1] / "docs" / "reference" / "options.md"
    assert path.read_text(encoding="utf-8") == page(), (
        "run: python -m sharpzo_mlx.cli.options_page > docs/reference/options.md"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[foo]\n", "foo: no such setting"),
        ("stage2 = 3\n", "stage2: a group of settings"),
        ("[[stage2]]\ndraws = 3\n", "stage2: a group of settings"),
        ("shots = [4]\n", "give a whole number"),
        ("shots = 2026-01-01\n", "give a whole number"),
        ("seed = true\n", "give a whole number"),
    ],
)
def test_a_file_of_wrong_settings_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "wrong.toml").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        TuneConfig().with_settings(read_settings(tmp_path / "wrong.toml"))
    assert "\n" not in str(error.value)


def test_a_byte_order_mark_is_no_setting(tmp_path: Path) -> None:
    (tmp_path / "marked.toml").write_bytes(b"\xef\xbb\xbfshots = 3\n")
    assert TuneConfig().with_settings(read_settings(tmp_path / "marked.toml")) == TuneConfig(shots=3)
