"""Every public call works from any thread, whichever thread came before: nothing that is held or returned is lazy.

MLX's streams belong to threads: an array that is not evaluated can be evaluated only in the thread that made it. Each
test has a checkpoint and a run of its own, because the first use of a part is what binds it to a thread.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np
import pytest
from tiny_settings import EIGHT

import sharpzo_mlx as sz
from sharpzo_mlx.datasets.folder import read_folder
from sharpzo_mlx.features.extract import encode
from sharpzo_mlx.features.views import encode_views

T = TypeVar("T")
QUICK = sz.TuneConfig(shots=4, generations=2, steps=2, views=2, templates="small").with_settings(EIGHT)


@dataclass
class Session:
    """What a program holds: a checkpoint and a run, opened anew, and images."""

    clip: sz.Clip
    run: sz.Run
    photos: Path
    folder: Path
    features: mx.array

    @property
    def images(self) -> list[Path]:
        return sorted(self.photos.glob("cat/*.png"))[:3]


def encode_folder(session: Session) -> Any:
    features = encode(session.clip, read_folder(session.photos), cache=False).take([5, 1])
    return [features.embeddings, encode_views(session.clip, features, views=2, cache=False)]


def free(folder: Path) -> Path:
    """Return a place that nothing has taken."""
    return folder / f"made-{len(list(folder.iterdir()))}"


def tune(session: Session) -> Any:
    return sz.tune(session.clip, session.photos, QUICK, output=free(session.folder)).prompt.class_features


def compare(session: Session) -> Any:
    config = sz.TuneConfig(shots=4, query_budget=20).with_settings(EIGHT)
    made = sz.compare(session.clip, session.photos, config, methods="ncm", seeds=1, output=free(session.folder))
    return [row.test.mean for row in made.datasets[0].rows if row.test]


CALLS: dict[str, Callable[[Session], Any]] = {
    "load": lambda s: sz.load(s.clip.folder).encode_texts("a cat"),
    "logit_scale": lambda s: s.clip.logit_scale,
    "encode_texts": lambda s: s.clip.encode_texts(["a cat", "a dog"]),
    "encode_images": lambda s: s.clip.encode_images(s.images),
    "encode_no_images": lambda s: s.clip.encode_images([]),
    "encode_pixels": lambda s: s.clip.encode_pixels(np.ones((2, 16, 16, 3), np.float32)),
    "towers": lambda s: [s.clip.text().logit_scale, s.clip.vision().visual_projection.weight],
    "encode": encode_folder,
    "predict": lambda s: [p.labels[0][1] for p in sz.predict(s.run, s.images, clip=s.clip, reject=0.4, coverage=0.6)],
    "logits": lambda s: [s.run.prompt.logits(s.features), s.run.prompt.text_logits(s.features)],
    "prompt": lambda s: [s.run.prompt.class_features, s.run.prompt.context, s.run.prompt.w],
}
LONG: dict[str, Callable[[Session], Any]] = {
    "evaluate": lambda s: sz.evaluate(s.run, s.photos, clip=s.clip, foreign=s.photos).tuned,
    "write_report": lambda s: sz.write_report(s.run).stat().st_size > 0,
    "tune": tune,
    "compare": compare,
}
PAIRS = [*itertools.product(CALLS, CALLS), *itertools.product(LONG, LONG)]


def in_thread(work: Callable[[], T]) -> T:
    """Run the work in a new thread, which ends with it."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


@pytest.fixture
def session(tiny_model: Path, photos: Path, tuned: Path, tmp_path: Path) -> Session:
    shutil.copytree(tuned, tmp_path / "run")
    features = mx.array(np.random.default_rng(0).standard_normal((3, 24)).astype(np.float32))
    return Session(sz.load(tiny_model), sz.Run.load(tmp_path / "run"), photos, tmp_path, features)


@pytest.fixture(scope="module")
def tuned(tiny_model: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sz.tune(sz.load(tiny_model), photos, QUICK, output=tmp_path_factory.mktemp("threads") / "run").folder


def as_numbers(found: Any) -> list[np.ndarray]:
    """Evaluate what a call returned."""
    return [np.array(part) for part in found] if isinstance(found, list) else [np.array(found)]


def check(session: Session, *parts: tuple[str, ...]) -> None:
    """Make each part of the calls in a thread of its own, and use all results here, where none was made."""
    calls = CALLS | LONG
    found = [in_thread(lambda part=part: [calls[name](session) for name in part]) for part in parts]  # type: ignore[misc]
    for result in itertools.chain(*found):
        assert all(np.isfinite(part).all() for part in as_numbers(result))


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_one_call_then_another_in_a_second_thread(session: Session, first: str, second: str) -> None:
    check(session, (first,), (second,))


@pytest.mark.parametrize("name", LONG)
def test_long_calls_before_and_after_all_others(session: Session, name: str) -> None:
    check(session, (name,), tuple(CALLS), (name,))


def test_each_step_of_a_tuning_in_its_own_thread(session: Session) -> None:
    """As with `await asyncio.to_thread(next, steps)`; interrupted once, and the result is that of one thread."""
    events = sz.tune_steps(session.clip, session.photos, QUICK, output=session.folder / "steps")
    for _ in range(12):
        in_thread(lambda: next(events))
    assert isinstance(events, Generator)
    in_thread(events.close)
    rest = sz.tune_steps(sz.load(session.clip.folder), session.photos, output=session.folder / "steps", resume=True)
    last = None
    while (event := in_thread(lambda: next(rest, None))) is not None:
        last = event
    assert last is not None
    alone = sz.tune(session.clip, session.photos, QUICK, output=session.folder / "alone")
    np.testing.assert_array_equal(sz.Run.load(session.folder / "steps").prompt.w, alone.prompt.w)
    np.testing.assert_array_equal(
        sz.Run.load(session.folder / "steps").prompt.logits(session.features), alone.prompt.logits(session.features)
    )


def test_calls_in_the_threads_of_asyncio(session: Session) -> None:
    """The first use of the prompt is in the main thread."""
    plain = np.array(session.run.prompt.logits(session.features))

    async def ask() -> tuple[mx.array, list[sz.Prediction], mx.array]:
        texts = await asyncio.to_thread(session.clip.encode_texts, ["a cat"])
        predictions = await asyncio.to_thread(sz.predict, session.run, session.images, clip=session.clip)
        return texts, predictions, await asyncio.to_thread(session.run.prompt.logits, session.features)

    texts, predictions, logits = asyncio.run(ask())
    assert float(mx.linalg.norm(texts)) == pytest.approx(1, abs=1e-5)
    assert [prediction.error for prediction in predictions] == [None] * 3
    np.testing.assert_array_equal(logits, plain)


def test_many_threads_at_once(session: Session) -> None:
    """Four threads use one checkpoint and one run that none has used before."""

    def work(number: int) -> Iterator[float]:
        (prediction,) = sz.predict(session.run, session.images[number % 3], clip=session.clip)
        return iter([prediction.labels[0][1], float(np.array(session.clip.encode_texts("a cat"))[0, 0])])

    with ThreadPoolExecutor(4) as pool:
        found = [list(row) for row in pool.map(work, range(12))]
    assert found[:3] == found[3:6] == found[9:]
