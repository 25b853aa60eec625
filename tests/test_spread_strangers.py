"""What a worker answers to records of a search that no leader of ours sends, and a leader to answers of no worker."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from test_spread_search import DIMENSION, IMAGES, Workers, ask, make_objective

import sharpzo_mlx as sz
from sharpzo_mlx.cluster import records
from sharpzo_mlx.cluster.leader import Leader
from sharpzo_mlx.cluster.opening import open_cluster
from sharpzo_mlx.cluster.work import NO_MODEL, Answer, Envelope, Models, Nap, Workplace
from sharpzo_mlx.features.extract import name_model
from sharpzo_mlx.objective import spreading
from sharpzo_mlx.objective.calls import CandidatePiece
from sharpzo_mlx.runtime.helpers import Shared, helped_by

ROWS = [np.zeros((4, DIMENSION), np.float32)] * 2


def do(clip: sz.Clip, content: bytes, piece: CandidatePiece) -> Answer:
    """What a worker answers to a piece with a record."""
    model = name_model(clip)
    given = ("candidates", model.key, os.fsencode(model.folder), records.write(piece))
    return Workplace("a", Models([clip])).do(records.write(Envelope(*given, hashlib.sha256(content).digest(), content)))


def recipe_of(clip: sz.Clip) -> Any:
    """The record that an objective is built from."""
    origin = make_objective(clip).origin
    assert origin is not None
    return origin.shared.record


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"labels": [10**6] * IMAGES}, "none of the classes"),  # MLX reads beyond its arrays
        ({"labels": [-1] * IMAGES}, "none of the classes"),
        ({"labels": [0]}, "1 labels for 30 images"),
        ({"dimension": 2**40}, "Error"),
        ({"dimension": 0}, "Error"),
        ({"seed": -1}, "Error"),
        ({"class_names": []}, "Error"),
        ({"embeddings": mx.zeros((IMAGES,))}, "Error"),
        ({"offsets": mx.zeros((1, 1))}, "Error"),
        ({"template": "{} {}"}, "write words before"),
    ],
)
@pytest.mark.parametrize("call", ["losses", "jvp"])
def test_a_record_of_impossible_values_ends_in_an_error(
    tiny_model: Path, changes: dict[str, Any], complaint: str, call: str
) -> None:
    clip = sz.load(tiny_model)
    piece = CandidatePiece(call, ROWS[: 2 if call == "jvp" else 1], 0, 4, 1)
    assert do(clip, records.write(recipe_of(clip)), piece).result
    assert complaint in do(clip, records.write(replace(recipe_of(clip), **changes)), piece).error


@pytest.mark.parametrize(("start", "stop"), [(-3, 4), (0, 9), (3, 1), (0, 0), (0, 10**12)])
def test_rows_that_are_no_share_are_not_answered(tiny_model: Path, start: int, stop: int) -> None:
    clip = sz.load(tiny_model)
    answer = do(clip, records.write(recipe_of(clip)), CandidatePiece("features", ROWS[:1], start, stop, 1))
    assert "no share of 4" in answer.error  # and no memory that was never written to


def test_a_record_is_ready_for_one_model_alone(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two models with one image tower, such as one with quantised words, the records are equal."""
    monkeypatch.setattr(spreading, "WORTH_SENDING", 0)
    folder = tmp_path / "other"
    shutil.copytree(tiny_model, folder)
    weights: Any = mx.load(str(tiny_model / "model.safetensors"))
    words = "text_model.encoder.layers.0.mlp.fc1.weight"
    mx.save_safetensors(str(folder / "model.safetensors"), weights | {words: 2 * weights[words]}, {"format": "mlx"})
    clips = [sz.load(tiny_model), sz.load(folder)]
    workers = Workers(clips[0])
    workers.places = [Workplace(name, Models(clips)) for name in ("a", "b")]
    objectives = [make_objective(clip) for clip in clips]
    contents = {records.write(one.origin.shared.record) for one in objectives if one.origin}
    assert len(contents) == 1
    alone = [ask(objective, "losses", 9)[0] for objective in objectives]
    assert not np.array_equal(alone[0], alone[1])
    with helped_by(workers):
        for objective, own in zip(objectives, alone, strict=True):
            np.testing.assert_array_equal(ask(objective, "losses", 9)[0], own)


def test_a_worker_with_more_cores_builds_what_fits_the_leaders_budget(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = sz.load(tiny_model)
    content = records.write(replace(recipe_of(clip), memory_budget=4_000_000))
    monkeypatch.setattr("sharpzo_mlx.objective.chunks.workers", lambda: 64)
    assert do(clip, content, CandidatePiece("losses", ROWS[:1], 0, 4, 1)).result


@pytest.fixture(scope="module")
def leader() -> Iterator[Leader]:
    """One worker."""
    with open_cluster("local:1") as found, helped_by(None):
        yield found


def test_a_worker_that_lacks_what_it_was_sent_ends_the_work(
    leader: Leader, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = sz.load(tiny_model)
    wrong = SimpleNamespace(sha256=lambda content: hashlib.sha256(content + b"!"))
    monkeypatch.setattr("sharpzo_mlx.cluster.leader.hashlib", wrong)
    pieces = [CandidatePiece("losses", ROWS[:1], 0, 4, 1)] * 3
    with pytest.raises(sz.UserError, match="did not take the record"):
        list(leader.perform("candidates", pieces, name_model(clip), Shared(recipe_of(clip))))


def test_a_result_of_another_kind_ends_the_work_in_one_line(leader: Leader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sharpzo_mlx.cluster.leader.result_kind", lambda work: list[np.ndarray])
    with pytest.raises(sz.UserError, match=r"worker .*: sent another result"):
        list(leader.perform("nap", [Nap(0.0, 3)], NO_MODEL))


def test_a_large_record_is_sent_without_a_word_of_dask(leader: Leader) -> None:
    """Warnings are errors here; a pause shares nothing, which is known only when the record is there."""
    with pytest.raises(sz.UserError, match="this version knows candidates"):
        list(leader.perform("nap", [Nap(0.0, 1)], NO_MODEL, Shared(bytes(50 << 20))))
