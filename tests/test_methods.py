"""The list of methods: names, groups and trials."""

from __future__ import annotations

from importlib import import_module

import pytest

import sharpzo_mlx as sz
from sharpzo_mlx.comparison.methods import registry, searches
from sharpzo_mlx.comparison.methods.method import AVERAGING
from sharpzo_mlx.errors import UserError

SEARCHES = tuple(method.name for method in searches.METHODS if method.name != "zero-shot")


def test_every_name_has_its_method_and_every_method_its_name() -> None:
    for name in registry.names():
        assert registry.method(name).name == name
    for home in {home for group in registry.HOMES.values() for home in group.values()}:
        for method in import_module(f"sharpzo_mlx.comparison.methods.{home}").METHODS:
            assert registry.method(method.name) is method


def test_trials_are_equally_many_and_the_compared_options_are_one_of_them() -> None:
    for name in (*SEARCHES, "coop"):
        method = registry.method(name)
        assert len(method.trials) == 4
        if name != "sharpzo":  # what it is compared with are the defaults of `tune`
            assert method.tuned in method.trials


def test_the_average_of_the_iterates_is_alike_for_all_that_make_steps() -> None:
    """SharpZO has it as the default of `tune`; CMA-ES validates its mean."""
    assert sz.TuneConfig().stage2.averaging == AVERAGING
    steppers = ("zo", *registry.HOMES["pruning"], "sharpzo-paper", "zip", "blackvip", "coop")
    for method in map(registry.method, steppers):
        key = "averaging" if method.name in ("zip", "blackvip", "coop") else "stage2.averaging"
        assert [options[key] for options in (method.tuned, *method.trials)] == [AVERAGING] * 5
        assert method.published[key] == 0


def test_names_and_groups() -> None:
    assert registry.chosen_names("sharpzo, bbt,bbt") == ("bbt", "sharpzo")
    assert registry.chosen_names("all") == registry.names()
    assert set(registry.chosen_names("pruning,coop")) == {*registry.HOMES["pruning"], "coop"}
    for words in ("nonsense", "bbt,nonsense", "", ","):
        with pytest.raises(UserError, match="choose among zero-shot, bbt, zo"):
            registry.chosen_names(words)
