"""Damaged weights: refused by name, and never under the cache key of the good model (RELIABILITY, case 01)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from damaged_models import NORM, copy, poke, replace_tensor

import sharpzo_mlx as sz
from sharpzo_mlx.clip.checkpoint import WEIGHTS, fingerprint, load_model, read_logit_scale
from sharpzo_mlx.clip.fingerprint import checked_folder
from sharpzo_mlx.clip.finite import all_finite
from sharpzo_mlx.convert import convert
from sharpzo_mlx.datasets.folder import read_folder
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.features import extract
from sharpzo_mlx.features.cache import FeatureCache
from sharpzo_mlx.objective.build import Problem
from sharpzo_mlx.objective.loss import Score

NAN = np.float32("nan").tobytes()
Refused = Callable[..., str]


def test_a_model_with_one_nan_is_refused_and_does_not_poison_the_cache(
    tiny_model: Path, photos: Path, tmp_path: Path, refused: Refused
) -> None:
    bad = poke(copy(tiny_model, tmp_path / "bad"), NORM, NAN)
    images = read_folder(photos)
    right = extract.encode(sz.load(tiny_model), images, cache=False)
    line = refused("tune", photos, "--model", bad, "--output", tmp_path / "run")
    assert str(bad / WEIGHTS) in line
    assert "damaged" in line
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="damaged"):
        extract.encode(sz.load(bad), images)
    good = extract.encode(sz.load(tiny_model), images)  # from the cache that the damaged model had, too
    np.testing.assert_array_equal(np.array(good.embeddings), np.array(right.embeddings))


def test_a_finite_change_is_refused_too(tiny_model: Path, tmp_path: Path) -> None:
    bad = poke(copy(tiny_model, tmp_path / "bad"), "text_projection.weight", np.float32(0.125).tobytes())
    assert fingerprint(tiny_model) == sz.load(tiny_model).fingerprint
    with pytest.raises(UserError, match=rf"{bad / WEIGHTS}: damaged or changed"):
        fingerprint(bad)
    with pytest.raises(UserError, match="damaged or changed"):
        sz.load(bad).encode_texts("a photo of a dog.")


def test_another_network_description_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    other = copy(tiny_model, tmp_path / "other")
    text = (other / "config.json").read_text()
    (other / "config.json").write_text(text.replace("quick_gelu", "gelu"))
    assert fingerprint(tiny_model)
    with pytest.raises(UserError, match=r"config\.json are not those"):
        fingerprint(other)


def test_weights_are_hashed_once_and_again_after_each_change(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy(tiny_model, tmp_path / "m")
    path = folder / WEIGHTS
    first = fingerprint(folder)
    assert len(list(checked_folder().iterdir())) == 1

    def hashed(*_: object) -> str:
        raise AssertionError("hashed again")

    monkeypatch.setattr("sharpzo_mlx.clip.fingerprint._hash", hashed)
    assert fingerprint(folder) == first
    before = path.stat()
    poke(folder, NORM, np.float32(3).tobytes())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(AssertionError, match="hashed again"):  # the time of writing is as it was
        fingerprint(folder)


def test_a_cache_that_cannot_be_written_costs_a_hash_and_no_more(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("SHARPZO_MLX_CACHE", str(tmp_path / "cache"))
    assert fingerprint(tiny_model) == fingerprint(tiny_model)
    with pytest.raises(UserError, match="damaged"):
        fingerprint(poke(copy(tiny_model, tmp_path / "bad"), NORM, NAN))


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_weights_that_are_not_finite_are_named(tiny_model: Path, tmp_path: Path, signed: bool, value: str) -> None:
    bad = replace_tensor(copy(tiny_model, tmp_path / "bad"), NORM, mx.full((32,), float(value)), signed=signed)
    with pytest.raises(UserError, match=rf"{bad / WEIGHTS}: {NORM} holds NaN or infinity"):
        load_model(bad)
    load_model(bad, towers=("text",))
    with pytest.raises(UserError, match=f"{NORM} holds NaN or infinity"):
        convert(bad, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_large_finite_weights_are_no_damage() -> None:
    assert all_finite(mx.full((1000,), 3e38))
    assert all_finite(mx.full((1000,), 65504.0, dtype=mx.float16))
    assert all_finite(mx.array([2**31], dtype=mx.uint32))
    for number in (float("nan"), float("inf"), float("-inf")):
        assert not all_finite(mx.array([number, 1.0, 3e38, -3e38]))
        assert not all_finite(mx.array([[0.0], [number]], dtype=mx.bfloat16))
    assert not all_finite(mx.array([float("inf"), float("-inf")]))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1000.0, -90.0])
def test_an_impossible_logit_scale_is_refused(tiny_model: Path, tmp_path: Path, value: float) -> None:
    bad = replace_tensor(copy(tiny_model, tmp_path / "bad"), "logit_scale", mx.array(value))
    with pytest.raises(UserError, match=rf"{bad / WEIGHTS}: logit_scale is "):
        read_logit_scale(bad)


def test_features_that_are_not_finite_are_an_error_that_names_the_weights(
    tiny_model: Path, photos: Path, tmp_path: Path
) -> None:
    huge = mx.full((32,), 3e38)  # finite, but what it makes is not
    bad = replace_tensor(copy(tiny_model, tmp_path / "bad"), NORM, huge)
    clip, images = sz.load(bad), read_folder(photos)
    with pytest.raises(UserError, match=rf"{bad / WEIGHTS}: gives features that are not finite"):
        extract.encode(clip, images)
    with FeatureCache(extract.cache_name(clip), width=24) as cache:
        assert cache.get(list(extract.finish(extract.find_digests(images.paths, {})).values())) == {}
    texts = replace_tensor(copy(tiny_model, tmp_path / "texts"), "text_model.final_layer_norm.weight", huge)
    with pytest.raises(UserError, match=rf"{texts / WEIGHTS}: gives features"):
        sz.load(texts).encode_texts(["a photo of a dog."])


def test_poisoned_rows_count_as_absent_and_are_never_stored(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = np.ones(24, np.float32), np.array([np.nan] * 24, np.float32)
    with FeatureCache("name", width=24) as cache:
        cache.put({b"good": good, b"bad": bad})
        assert set(cache.get([b"good", b"bad"])) == {b"good"}
        with monkeypatch.context() as patch:  # as earlier versions stored them
            patch.setattr(np, "isfinite", lambda rows: np.ones_like(rows, dtype=bool))
            cache.put({b"bad": bad})
            assert set(cache.get([b"bad"])) == {b"bad"}
        assert cache.get([b"bad"]) == {}


def test_a_loss_before_tuning_that_is_not_finite_is_refused(
    tiny_model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Problem, "validate", lambda *_: Score(0.3, float("nan"), 8))
    with pytest.raises(UserError, match="its loss before tuning is not a finite number"):
        sz.tune(sz.load(tiny_model), photos, sz.TuneConfig(shots=4, head="none"), output=tmp_path / "run")
