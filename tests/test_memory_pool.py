"""MLX's pool of freed arrays is bounded on a GPU, which is pretended, and left alone on the CPU."""

from __future__ import annotations

import threading
from pathlib import Path

import mlx.core as mx
import pytest
from pretended_gpu import Pool, pretend_gpu

import sharpzo_mlx as sz
from sharpzo_mlx.runtime import limits
from sharpzo_mlx.runtime.limits import bounded_cache, pool_limit


@pytest.mark.parametrize(("machine", "limit"), [(8, 512), (16, 1024), (32, 2048), (192, 2048), (4, 512)])
def test_the_limit_follows_the_machine(machine: int, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "physical", lambda: machine * 2**30)
    assert pool_limit() == limit * 2**20


def test_the_limit_before_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = pretend_gpu(monkeypatch)
    before = pool.limit
    with bounded_cache():
        assert pool.limit == pool_limit()
        with bounded_cache(3 * 2**30):
            assert pool.limit == 3 * 2**30
        assert pool.limit == pool_limit()
        with pytest.raises(ZeroDivisionError), bounded_cache():
            raise ZeroDivisionError
    assert pool.limit == before


def test_a_lower_limit_of_the_program_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = pretend_gpu(monkeypatch)
    pool.limit = 1000
    with bounded_cache(), bounded_cache(2**33):
        assert pool.limit == 1000
    assert pool.limit == 1000


def test_blocks_of_two_threads_may_end_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = pretend_gpu(monkeypatch)
    before, inside, leave = pool.limit, threading.Event(), threading.Event()

    def other() -> None:
        with bounded_cache():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with bounded_cache():
        thread.start()
        assert inside.wait(10)
    assert pool.limit == pool_limit()  # the first has left, the second has not
    leave.set()
    thread.join()
    assert pool.limit == before


def test_the_cpu_keeps_its_own(monkeypatch: pytest.MonkeyPatch, tiny_model: Path, photos: Path) -> None:
    pool = Pool()
    monkeypatch.setattr(mx, "set_cache_limit", pool.set_limit)
    clip = sz.load(tiny_model)
    clip.encode_images(sorted(photos.rglob("*.png"))[:2])
    clip.encode_texts("a dog")
    with bounded_cache():
        limits.empty_cache()
    assert pool.limits == pool.limits[:1]


def test_tuning_and_texts_are_inside(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path, photos: Path, tmp_path: Path
) -> None:
    pool = pretend_gpu(monkeypatch)
    sz.load(tiny_model).encode_texts("a dog")
    assert pool.limits == [2**40, pool_limit(), pool_limit(), 2**40]
    config = sz.TuneConfig(shots=2, head="none", generations=1, steps=0, memory_budget=2**32)
    config = config.with_settings({"space.dimension": 8, "stage1.population": 4})
    events = sz.tune_steps(sz.load(tiny_model), photos, config, output=tmp_path / "run")
    seen = [pool.limit for _ in events]
    assert len(seen) > 2
    assert set(seen) == {2**32}  # a batch of candidates is not freed and allocated anew
    assert pool.limit == 2**40
