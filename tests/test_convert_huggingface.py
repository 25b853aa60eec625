"""Bringing tensors into our layout is pure and strict, keeps its own result, and names foreign files."""

from __future__ import annotations

from collections.abc import Mapping

import mlx.core as mx
import numpy as np
import pytest

from sharpzo_mlx.convert.huggingface import BUFFERS, PATCHES, to_mlx
from sharpzo_mlx.errors import UserError

EXPECTED: dict[str, tuple[int, ...]] = {
    "logit_scale": (),
    "text_model.final_layer_norm.weight": (8,),
    "text_projection.weight": (4, 8),
    PATCHES: (6, 2, 2, 3),
}


def given(**change: mx.array | None) -> dict[str, mx.array]:
    weights = {name: mx.random.normal(shape) for name, shape in EXPECTED.items()}
    weights[PATCHES] = weights[PATCHES].transpose(0, 3, 1, 2)
    renamed = {name.replace("__", "."): value for name, value in change.items()}
    return {name: value for name, value in (weights | renamed).items() if value is not None}


def same(left: Mapping[str, mx.array], right: Mapping[str, mx.array]) -> bool:
    return list(left) == list(right) and all(mx.array_equal(left[name], right[name]).item() for name in left)


def test_patches_go_channels_last_and_nothing_else_changes() -> None:
    weights = given()
    before = dict(weights)
    found = to_mlx(weights, EXPECTED)
    np.testing.assert_array_equal(np.array(found[PATCHES]), np.moveaxis(np.array(weights[PATCHES]), 1, -1))
    assert list(found) == sorted(EXPECTED)
    assert same(
        {name: found[name] for name in found if name != PATCHES}, {n: weights[n] for n in found if n != PATCHES}
    )
    assert same(weights, before)


def test_its_own_result_is_a_fixed_point() -> None:
    once = to_mlx(given(), EXPECTED)
    assert same(to_mlx(once, EXPECTED), once)


def test_patches_that_fit_both_layouts_follow_the_file() -> None:
    expected = EXPECTED | {PATCHES: (6, 3, 3, 3)}
    weights = given() | {PATCHES: mx.random.normal((6, 3, 3, 3))}
    moved = to_mlx(weights, expected)
    np.testing.assert_array_equal(np.array(moved[PATCHES]), np.moveaxis(np.array(weights[PATCHES]), 1, -1))
    assert same(to_mlx(moved, expected, channels_last=True), moved)


def test_known_buffers_are_dropped_and_only_those() -> None:
    weights = given() | {name: mx.arange(5)[None] for name in BUFFERS}
    assert same(to_mlx(weights, EXPECTED), to_mlx(given() | {n: weights[n] for n in EXPECTED}, EXPECTED))
    with pytest.raises(UserError, match=r"1 are not of the CLIP.*text_model\.position_ids"):
        to_mlx(given(text_model__position_ids=mx.zeros(3)), EXPECTED)


FOREIGN = {
    "missing": (given(logit_scale=None), r"1 tensors are missing \(logit_scale\)"),
    "shape": (given(logit_scale=mx.zeros(1)), r"logit_scale has the shape \(1,\) but config.json asks for \(\)"),
    "patches": (given() | {PATCHES: mx.zeros((6, 3, 4, 4))}, "patch_embedding"),
    "flat patches": (given() | {PATCHES: mx.zeros((6, 12))}, "patch_embedding"),
    "image only": ({n: v for n, v in given().items() if n.startswith("vision")}, "only CLIP's image tower"),
    "text only": ({n: v for n, v in given().items() if n.startswith("text")}, "only CLIP's text tower"),
    "openai": ({"visual.conv1.weight": mx.zeros(1), "logit_scale": mx.zeros(())}, "no CLIP"),
    "siglip": (given(logit_bias=mx.zeros(1)), "SigLIP"),
    "no clip": ({"bert.pooler.weight": mx.zeros(1)}, r"no CLIP \(it holds 'bert.pooler.weight'\)"),
    "nothing": ({}, "no CLIP"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_foreign_files_are_refused(case: str) -> None:
    weights, message = FOREIGN[case]
    with pytest.raises(UserError, match=message) as caught:
        to_mlx(weights, EXPECTED)
    assert "\n" not in str(caught.value)
