"""From a checkpoint to the objective: what the text tower computes in."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import cast

import mlx.core as mx
import pytest
from method_runs import small_task

from sharpzo_mlx.clip.checkpoint import load_model
from sharpzo_mlx.prompts.shared_prefix import SharedPrefixText


def test_the_search_computes_in_float32_where_the_weights_stay_half(
    tiny_model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU keeps half precision as it is stored; differences of losses are taken in float32 there, too."""
    monkeypatch.setattr("sharpzo_mlx.clip.checkpoint.HALF", ())  # what a GPU does
    folder = Path(shutil.copytree(tiny_model, tmp_path / "half"))
    weights = cast("dict[str, mx.array]", mx.load(str(folder / "model.safetensors")))
    mx.save_safetensors(str(folder / "model.safetensors"), {name: x.astype(mx.float16) for name, x in weights.items()})
    assert load_model(folder, ("text",)).text_model.final_layer_norm.weight.dtype == mx.float16
    objective = small_task(folder, photos, query_budget=1).problem().objective
    assert cast(SharedPrefixText, objective.text).suffixes.dtype == mx.float32
