"""MLX's pool of freed arrays is bounded on a GPU, which is pretended, and left alone on the CPU."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import pytest
from pretended_gpu import Pool, pretend_gpu

import sharpzo_mlx as sz
from sharpzo_mlx.runtime import limits
from sharpzo_mlx.runtime.limits import bounded_cache, pool_limit
from sharpzo_mlx.tuning.search import TuneStep


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
    monkeypatch.setattr(limits, "physical", lambda: 8 * 2**30)
    for name, budget, limit in (("given", 2**32, 2**32), ("default", None, 2**30)):
        config = sz.TuneConfig(shots=2, head="none", generations=2, steps=0, memory_budget=budget)
        config = config.with_settings({"space.dimension": 8, "stage1.population": 4})
        events = sz.tune_steps(sz.load(tiny_model), photos, config, output=tmp_path / name)
        while not isinstance(next(events), TuneStep):
            pass
        assert pool.limit == limit  # a batch of candidates is not freed and allocated anew
        events.close()  # type: ignore[attr-defined]
        assert pool.limit == 2**40
        events = sz.tune_steps(sz.load(tiny_model), photos, output=tmp_path / name, resume=True)
        seen = [pool.limit for _ in events]
        assert len(seen) >= 2
        assert set(seen) == {limit}
        assert pool.limit == 2**40


def test_a_dropped_generator_may_end_its_block_while_a_limit_changes() -> None:
    """Python may collect one anywhere, in the middle of another block's beginning or end as well."""
    dropped: list[Iterator[None]] = []
    limit = [100]

    def assign(new: int) -> int:
        while dropped:
            generator = dropped.pop()
            generator.close()  # type: ignore[attr-defined]
        before, limit[0] = limit[0], new
        return before

    shared = limits.SharedLimit(assign, sum, base=lambda: 0)

    def hold(asked: int) -> Iterator[None]:
        with shared.block(asked):
            yield

    def drop(asked: int) -> None:
        generator = hold(asked)
        next(generator)
        dropped.append(generator)

    def take() -> None:
        drop(10)
        with shared.block(5):
            assert limit == [5]
            drop(20)
        assert limit == [100]

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert limit == [100]


def test_ctrl_c_at_the_beginning_of_a_block_leaves_no_limit_behind() -> None:
    limits_set = [100]

    def assign(new: int) -> int:
        limits_set.append(new)
        if len(limits_set) == 3:
            raise KeyboardInterrupt
        return limits_set[-2]

    shared = limits.SharedLimit(assign, sum, base=lambda: 0)
    with pytest.raises(KeyboardInterrupt), shared.block(5):
        pass
    assert limits_set == [100, 5, 5, 100]
    with shared.block(7):
        assert limits_set[-1] == 7
    assert limits_set[-1] == 100
