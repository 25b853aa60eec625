"""Candidates of a search that helpers compute have the bits that this process would find, and count once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import sharpzo_mlx as sz
from sharpzo_mlx.cluster import records
from sharpzo_mlx.cluster.work import KEPT, Answer, Envelope, Models, Workplace, result_kind
from sharpzo_mlx.config import SpaceParams
from sharpzo_mlx.features.extract import Features
from sharpzo_mlx.objective import spreading
from sharpzo_mlx.objective.build import build_problem
from sharpzo_mlx.objective.calls import Call, CandidatePiece
from sharpzo_mlx.objective.graph_backend import GraphBackend
from sharpzo_mlx.objective.objective import Objective
from sharpzo_mlx.prompts.cpu_pieces import PiecePlan, Share
from sharpzo_mlx.runtime.helpers import Model, Shared, helped_by

CLASSES, IMAGES, DIMENSION = 60, 30, 16


@pytest.fixture(autouse=True)
def everything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spreading, "WORTH_SENDING", 0)


class Workers:
    """Two workers in this process, which get bytes and return bytes; the last pieces are done first."""

    def __init__(self, clip: sz.Clip) -> None:
        self.count = self.present = 2
        self.places = [Workplace(name, Models([clip])) for name in ("a", "b")]
        self.pieces: list[CandidatePiece] = []
        self.sent = 0  # shared records

    def perform(
        self, work: str, pieces: Iterable[Any], model: Model, shared: Shared | None = None
    ) -> Iterator[tuple[int, Any]]:
        assert shared is not None
        content = records.write(shared.record)
        key = hashlib.sha256(content).digest()
        for number, piece in reversed(list(enumerate(pieces))):
            self.pieces.append(piece)
            given = (work, model.key, os.fsencode(model.folder), records.write(piece), key)
            answer = self._ask(number % 2, Envelope(*given))
            if answer.lacks:
                self.sent += 1
                answer = self._ask(number % 2, Envelope(*given, content))
            assert not answer.error
            yield number, records.read(answer.result, result_kind(work))

    def _ask(self, worker: int, envelope: Envelope) -> Answer:
        return records.read(records.write(self.places[worker].do(records.write(envelope))), Answer)


def make_objective(clip: sz.Clip, *, offsets: bool = False, seed: int = 0) -> Objective:
    """An objective on random features of many classes."""
    names = tuple(f"thing {number} of {number % 7}" for number in range(CLASSES))
    rows = mx.random.normal((IMAGES, clip.config.projection_dim), key=mx.random.key(3))
    labels = np.arange(IMAGES) % CLASSES
    images = Features(rows / mx.linalg.norm(rows, axis=-1, keepdims=True), labels, names, names, ())
    space = SpaceParams(dimension=DIMENSION)
    added = mx.random.normal((IMAGES, CLASSES), key=mx.random.key(5)) if offsets else None
    return build_problem(
        clip, images, images, template="a photo of a {}.", space=space, seed=seed, offsets=added, val_offsets=added
    ).objective


def ask(objective: Objective, call: Call, count: int) -> list[np.ndarray]:
    """The results of a call for so many points."""
    w, u = (mx.random.normal((count, DIMENSION), key=mx.random.key(n)) for n in (0, 1))
    if call == "jvp":
        return [np.array(value) for value in objective.jvp(w, u)]
    if call == "feature_slopes":
        return [np.array(value) for value in objective.feature_slopes(w[0], u)]
    return [np.array(getattr(objective, call)(w))]


@pytest.mark.parametrize("cores", [1, 3])
@pytest.mark.parametrize("call", ["losses", "image_losses", "features", "jvp", "feature_slopes"])
def test_helpers_find_the_same_bits(tiny_model: Path, call: Call, cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = sz.load(tiny_model)
    workers, objective = Workers(clip), make_objective(clip, offsets=cores == 3)
    objective.jvp_chunk = 3
    monkeypatch.setattr("sharpzo_mlx.prompts.cpu_pieces.workers", lambda: cores)
    monkeypatch.setattr(spreading, "workers", lambda: cores)
    for chunk, count in ((1000, 13), (5, 13), (1000, 2)):
        objective.chunk, objective.queries = chunk, 0
        alone, queries = ask(objective, call, count), objective.queries
        with helped_by(workers):
            helped = ask(objective, call, count)
        assert objective.queries == 2 * queries
        assert len(alone) == len(helped)
        for one, other in zip(alone, helped, strict=True):
            np.testing.assert_array_equal(one, other)
    assert len(workers.pieces) >= 8
    assert workers.sent == 2  # once to each
    assert {piece.cores for piece in workers.pieces} == {cores}


def test_a_batch_of_the_graph_is_cut_between_chunks(tiny_model: Path) -> None:
    clip = sz.load(tiny_model)
    workers, objective = Workers(clip), make_objective(clip)
    objective.backend = GraphBackend(objective.text, objective.images, sizes=objective.sizes, budget=1 << 30)
    objective.chunk = 4
    with helped_by(workers):
        ask(objective, "losses", 12)
    assert sorted((piece.start, piece.stop, len(piece.rows[0])) for piece in workers.pieces) == [(0, 4, 4)] * 3
    assert objective.backend.edges(7, 2) == [0, 7]
    w = mx.random.normal((7, DIMENSION), key=mx.random.key(2))
    contexts = objective.space.contexts(w)
    some = objective.backend.of(Share(2, 5, 1))
    np.testing.assert_allclose(some.losses(contexts), objective.backend.losses(contexts)[2:5], rtol=1e-5)


def test_little_work_and_work_of_no_origin_stay_here(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = sz.load(tiny_model)
    workers, objective = Workers(clip), make_objective(clip)
    with helped_by(workers):
        ask(objective, "losses", 1)  # cannot be cut
        assert not workers.pieces
        monkeypatch.setattr(spreading, "WORTH_SENDING", spreading.count_operations(objective, 10))
        ask(objective, "losses", 9)
        assert not workers.pieces
        ask(objective, "losses", 10)
        assert workers.pieces
        seen, objective.origin = len(workers.pieces), None
        ask(objective, "losses", 10)
        assert len(workers.pieces) == seen


@pytest.mark.parametrize("spoil", [lambda x: x[1:], lambda x: x.astype(np.float64)])
def test_other_arrays_than_asked_are_refused(
    tiny_model: Path, spoil: Callable[[np.ndarray], np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = sz.load(tiny_model)
    workers, objective = Workers(clip), make_objective(clip)
    plain = Workers.perform
    monkeypatch.setattr(
        Workers, "perform", lambda *given: ((n, [spoil(x) for x in found]) for n, found in plain(*given))
    )
    with helped_by(workers), pytest.raises(sz.UserError, match="sent other arrays than the features of"):
        ask(objective, "features", 9)


def test_a_worker_keeps_the_last_objectives_and_asks_for_others(tiny_model: Path) -> None:
    clip = sz.load(tiny_model)
    workers = Workers(clip)
    objectives = [make_objective(clip, seed=seed) for seed in range(KEPT + 1)]
    with helped_by(workers):
        for objective in objectives:
            ask(objective, "losses", 9)
        assert workers.sent == 2 * len(objectives)
        ask(objectives[-1], "losses", 9)
        assert workers.sent == 2 * len(objectives)
        ask(objectives[0], "losses", 9)
        assert workers.sent == 2 * len(objectives) + 2
        workers.places[0].forget()
        ask(objectives[0], "losses", 9)
        assert workers.sent == 2 * len(objectives) + 3


def test_a_record_that_is_not_what_its_digest_says_is_not_used(tiny_model: Path) -> None:
    clip = sz.load(tiny_model)
    place, origin = Workplace("a", Models([clip])), make_objective(clip).origin
    assert origin is not None
    piece = CandidatePiece("losses", [np.zeros((2, DIMENSION), np.float32)], 0, 2, 1)
    content = records.write(origin.shared.record)
    given = ("candidates", origin.model.key, os.fsencode(origin.model.folder), records.write(piece))
    other = hashlib.sha256(b"another").digest()
    assert place.do(records.write(Envelope(*given, other, content))).lacks
    unknown = records.write(CandidatePiece("__class__", piece.rows, 0, 2, 1))
    answer = place.do(records.write(Envelope(*given[:3], unknown, hashlib.sha256(content).digest(), content)))
    assert "'__class__' is not known" in answer.error


@pytest.mark.parametrize("cores", [1, 2, 5, 16])
@pytest.mark.parametrize("candidates", [1, 2, 7, 33])
def test_shares_are_all_pieces_of_a_batch_once(candidates: int, cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = PiecePlan(blocks=9, size=30, least=100, rows=512)
    whole = plan.pieces(candidates, Share(0, candidates, cores))
    edges = plan.edges(candidates, cores=cores)
    assert edges[0] == 0
    assert edges[-1] == candidates
    parts = [plan.pieces(candidates, Share(a, b, cores)) for a, b in pairwise(edges)]
    assert [piece for part in parts for piece in part] == whole
    monkeypatch.setattr("sharpzo_mlx.prompts.cpu_pieces.workers", lambda: cores)
    assert plan.pieces(candidates) == whole
