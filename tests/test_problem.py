"""From a checkpoint to the objective: what the text tower computes in, and what is added to the logits."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import cast

import mlx.core as mx
import numpy as np
import pytest
from method_runs import small_task

from sharpzo_mlx.clip.checkpoint import load_model
from sharpzo_mlx.objective.loss import score_calibrated
from sharpzo_mlx.prompts.shared_prefix import SharedPrefixText
from sharpzo_mlx.tuning.problem import make_problem


def test_the_search_computes_in_float32_where_the_weights_stay_half(
    tiny_model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU keeps half precision as it is stored; differences of losses are taken in float32 there, too."""
    monkeypatch.setattr("sharpzo_mlx.clip.dtypes.HALF", ())  # what a GPU does
    folder = Path(shutil.copytree(tiny_model, tmp_path / "half"))
    weights = cast("dict[str, mx.array]", mx.load(str(folder / "model.safetensors")))
    mx.save_safetensors(str(folder / "model.safetensors"), {name: x.astype(mx.float16) for name, x in weights.items()})
    assert load_model(folder, ("text",)).text_model.final_layer_norm.weight.dtype == mx.float16
    objective = small_task(folder, photos, query_budget=1).problem().objective
    assert cast(SharedPrefixText, objective.text).suffixes.dtype == mx.float32


def test_a_problem_beside_a_fixed_classifier(tiny_model: Path, photos: Path) -> None:
    """Losses and validation have its logits and scale; the prompt has the checkpoint's scale and no offsets."""
    task = small_task(tiny_model, photos, query_budget=1)
    clip, train, val, classes = task.clip, task.train, task.val, len(task.train.class_names)
    own, scale = clip.logit_scale, 0.7 * clip.logit_scale
    offsets, val_offsets = (
        mx.random.normal((len(x.labels), classes), key=mx.random.key(k)) for k, x in enumerate((train, val))
    )
    problem = make_problem(clip, train, val, task.config, logit_scale=scale, offsets=offsets, val_offsets=val_offsets)
    w = 0.1 * mx.random.normal((1, problem.objective.dimension), key=mx.random.key(5))
    text = np.array(problem.objective.class_features(w[0]), np.float64)

    def plain(embeddings: mx.array, added: mx.array) -> np.ndarray:
        result: np.ndarray = scale * np.array(embeddings, np.float64) @ text.T + np.array(added)
        return result

    logits = plain(train.embeddings, offsets)
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(train.labels)), train.labels]
    assert problem.objective.losses(w).item() == pytest.approx(losses.mean(), rel=1e-4)
    score = problem.validate(w[0])
    expected = score_calibrated(mx.array(plain(val.embeddings, val_offsets)), mx.array(val.labels))
    assert (score.loss, score.accuracy) == pytest.approx((expected.loss, expected.accuracy), rel=1e-4)
    prompt, usual = problem.prompt(w[0]), task.problem().prompt(w[0])
    assert prompt.logit_scale == usual.logit_scale == own
    np.testing.assert_array_equal(prompt.text_logits(val.embeddings), usual.text_logits(val.embeddings))
    with pytest.raises(ValueError, match="offsets have the shape"):
        make_problem(clip, train, val, task.config, val_offsets=val_offsets[:1])
