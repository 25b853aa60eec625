"""Options are checked when they are made, survive their file, and presets are the paper's table."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.presets import PAPER, preset


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shots": 0}, "shots 0: must be at least 1"),
        ({"rho": -0.1}, r"rho -0\.1: must be at least 0"),
        ({"sigma": 0.0}, "sigma 0.0: must be above 0"),
        ({"keep": 1.5}, "keep 1.5: must be at most 1"),
        ({"sigma": float("nan")}, "finite"),
        ({"rule": "newton"}, "choose one of sgd"),
        ({"seed": 1.5}, "whole number"),
        ({"seed": True}, "whole number"),
        ({"population": None}, "a value is needed"),
        ({"learning_rate": "fast"}, "give a number"),
        ({"dimension": 20_000_000}, "dimension 20000000: must be at most 65536"),
        ({"dimension": 5000, "covariance": "full"}, "dimension 5000: must be at most 4096 with covariance full"),
        ({"template": "a photo"}, "write {} once"),
        ({"template": 5}, "write {} once"),
        ({"template": "{} and {}"}, "write {} once"),
    ],
)
def test_bad_values_are_named_with_what_is_allowed(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TuneConfig(**changes)


def test_options_survive_their_file() -> None:
    config = TuneConfig(shots=3, rho=0.25, query_budget=99)
    assert TuneConfig.from_dict(config.to_dict()) == config
    with pytest.raises(UserError, match="unknown option speed"):
        TuneConfig.from_dict({**config.to_dict(), "speed": 1})


def test_every_option_explains_itself() -> None:
    for item in dataclasses.fields(TuneConfig):
        assert item.metadata["help"], item.name
        assert item.metadata["group"], item.name


def test_the_papers_settings() -> None:
    config = preset("paper", seed=4)
    assert (config.population, config.dimension, config.rho, config.steps) == (40, 512, 0.1, 20_000)
    assert (config.sharpness, config.covariance, config.rule, config.keep) == ("cge", "full", "sgd", 0.5)
    assert (config.sigma, config.generations, config.seed, config.preset) == (0.4, 500, 4, "paper")
    dtd = preset("paper:dtd", keep=0.1)
    assert (dtd.sharpness_mu, dtd.projection_std, dtd.generations, dtd.keep) == (1e-5, 1.0, 300, 0.1)
    assert len(PAPER) == 11
    for name in PAPER:
        assert preset(f"paper:{name}").preset == f"paper:{name}"


@pytest.mark.parametrize("name", ["papers", "paper:mnist", "paper:", "default:", ":", ""])
def test_unknown_presets_are_named(name: str) -> None:
    with pytest.raises(UserError, match="choose default"):
        preset(name)
