"""Work spread over the cores: ordered results, errors, and the number of BLAS threads restored afterwards."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from threadpoolctl import ThreadpoolController, threadpool_limits

import sharpzo_mlx as sz
from sharpzo_mlx.images.load import stream
from sharpzo_mlx.images.preprocessor import PreprocessorConfig
from sharpzo_mlx.runtime import threads
from sharpzo_mlx.tuning.pipeline import tune

PATIENCE = 30  # seconds until a test that waits for the other thread fails


class CountedLibrary:
    """A BLAS of four threads whose controller behaves like threadpoolctl's: one thread at a time has control."""

    def __init__(self) -> None:
        self.count = 4
        self.owner: threading.Thread | None = None

    def get_num_threads(self) -> int:
        return self.count

    def set_num_threads(self, num_threads: int) -> None:
        if self.owner is None or not self.owner.is_alive():
            self.owner = threading.current_thread()
        if self.owner is threading.current_thread():
            self.count = num_threads

    def clear_controlling_thread(self, force: bool = False) -> None:
        if force or self.owner is threading.current_thread():
            self.owner = None


@pytest.fixture
def two_threads() -> Iterator[tuple[threads.Cores, threads.BlasLibrary]]:
    """NumPy's OpenBLAS on two threads; skipped where NumPy uses another BLAS or there is one core."""
    library, found = threads.numpy_openblas(), threads.cores()
    if library is None or found is None or found.workers < 2:
        pytest.skip("NumPy has no OpenBLAS here, or one core")
    before = library.get_num_threads()
    yield found, library
    assert library.get_num_threads() == before


def overlap(guard: threads.SingleThreaded, count: Callable[[], int]) -> list[int]:
    """Enter from two threads, leave in the order of entry; return the number of BLAS threads after each event."""
    seen: list[int] = []
    second_is_in, first_is_out = threading.Event(), threading.Event()

    def first() -> None:
        with guard:
            seen.append(count())
            pool.submit(second)
            assert second_is_in.wait(PATIENCE)
        seen.append(count())
        first_is_out.set()

    def second() -> None:
        with guard:
            seen.append(count())
            second_is_in.set()
            assert first_is_out.wait(PATIENCE)
            seen.append(count())
        seen.append(count())

    with ThreadPoolExecutor(2) as pool:
        pool.submit(first).result(PATIENCE)
    return seen


def test_results_are_in_order() -> None:
    x = np.arange(12.0).reshape(3, 4)
    assert threads.spread(lambda n: float(x[n] @ x[n]), range(3)) == [14.0, 126.0, 366.0]


def test_an_error_comes_out_and_the_threads_come_back(two_threads: tuple[threads.Cores, threads.BlasLibrary]) -> None:
    _, library = two_threads
    before = library.get_num_threads()

    def fail(n: int) -> None:
        assert library.get_num_threads() == 1
        raise ValueError(f"piece {n}")

    with pytest.raises(ValueError, match="piece 0"):
        threads.spread(fail, range(4))
    assert library.get_num_threads() == before


def test_without_openblas_pieces_run_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "cores", lambda: None)
    assert threads.workers() == 1
    assert threads.spread(lambda n: (n + 1, threading.current_thread()), range(2)) == [
        (1, threading.current_thread()),
        (2, threading.current_thread()),
    ]
    with threads.small_products():
        assert threads.spread(lambda n: n, range(2)) == [0, 1]


def test_small_products_have_one_thread_and_leave_the_others_as_they_were(
    two_threads: tuple[threads.Cores, threads.BlasLibrary],
) -> None:
    _, library = two_threads
    before = library.get_num_threads()
    with threads.small_products():
        assert library.get_num_threads() == 1
        assert threads.spread(lambda n: n * n, range(4)) == [0, 1, 4, 9]
        assert library.get_num_threads() == 1
    assert library.get_num_threads() == before


def test_the_blas_of_mlx_keeps_its_threads() -> None:
    """Only the library inside NumPy's wheel is held to one thread."""
    own = threads.numpy_openblas()
    others = [
        library for library in ThreadpoolController().lib_controllers if own is None or library.filepath != own.filepath
    ]
    before = [library.get_num_threads() for library in others]
    with threads.small_products():
        assert [library.get_num_threads() for library in others] == before


def test_overlapping_blocks_restore_the_number_of_threads() -> None:
    """The first to leave changes nothing, and what the second found (1) isn't what it restores."""
    library = CountedLibrary()
    assert overlap(threads.SingleThreaded(library), library.get_num_threads) == [1, 1, 1, 1, 4]
    assert library.owner is None


def test_overlapping_blocks_restore_the_threads_of_numpy(
    two_threads: tuple[threads.Cores, threads.BlasLibrary],
) -> None:
    found, library = two_threads
    before = library.get_num_threads()
    assert overlap(found.single_threaded, library.get_num_threads) == [1, 1, 1, 1, before]


def test_nested_blocks_restore_once() -> None:
    library = CountedLibrary()
    guard = threads.SingleThreaded(library)
    with guard:
        with guard:
            assert library.count == 1
        assert library.count == 1
    assert library.count == 4


def test_a_limit_that_another_thread_holds_is_left_to_it(
    two_threads: tuple[threads.Cores, threads.BlasLibrary],
) -> None:
    """Where the user's own program limits the BLAS meanwhile, what it restores is not overwritten."""
    found, library = two_threads
    before = library.get_num_threads()
    limited, done = threading.Event(), threading.Event()

    def limit() -> None:
        with threadpool_limits(1):
            limited.set()
            assert done.wait(PATIENCE)

    with ThreadPoolExecutor(1) as pool:
        user = pool.submit(limit)
        assert limited.wait(PATIENCE)
        with found.single_threaded:
            done.set()
            user.result(PATIENCE)
            assert library.get_num_threads() == before
    assert library.get_num_threads() == before


def test_many_spreads_at_once_give_their_own_results(two_threads: tuple[threads.Cores, threads.BlasLibrary]) -> None:
    _, library = two_threads
    before = library.get_num_threads()
    x = np.random.default_rng(0).standard_normal((6, 40, 40))

    def work(caller: int) -> list[float]:
        return threads.spread(lambda n: float((x[n] @ x[caller]).sum()), range(6))

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(work, [0, 1, 2, 3] * 10))
    assert results == [[float((x[n] @ x[caller]).sum()) for n in range(6)] for caller in [0, 1, 2, 3] * 10]
    assert library.get_num_threads() == before


def test_two_tunings_at_once_leave_the_threads_as_they_were(
    tiny_model: Path, photos: Path, tmp_path: Path, two_threads: tuple[threads.Cores, threads.BlasLibrary]
) -> None:
    _, library = two_threads
    before = library.get_num_threads()
    clip = sz.load(tiny_model)
    config = sz.TuneConfig(shots=4, generations=3, steps=12, head="none")
    alone = tune(clip, photos, config, output=tmp_path / "alone")

    def tune_numbered(number: int) -> sz.Run:
        return tune(clip, photos, config, output=tmp_path / str(number))

    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(tune_numbered, range(2)))
    assert library.get_num_threads() == before
    for run in runs:
        assert np.array_equal(np.array(run.prompt.w), np.array(alone.prompt.w))


def test_decoding_leaves_the_threads_of_mlx_s_blas_as_they_were(tmp_path: Path) -> None:
    """mlx-data sets them to one meanwhile, from several threads at once."""
    libraries = threads.other_openblas()
    if not libraries or libraries[0].get_num_threads() < 2:
        pytest.skip("MLX has no OpenBLAS here, or one core")
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.jpg" for number in range(12)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (200, 200, 3), np.uint8)).save(path)
    before = [library.get_num_threads() for library in libraries]
    for _ in range(8):
        assert sum(len(batch.indices) for batch in stream(paths, PreprocessorConfig.for_size(32), batch_size=4)) == 12
        assert [library.get_num_threads() for library in libraries] == before


def test_kept_threads_are_restored_by_the_last_that_leaves() -> None:
    (library, *_) = threads.other_openblas() or [None]
    if library is None or library.get_num_threads() < 2:
        pytest.skip("MLX has no OpenBLAS here, or one core")
    before, guard = library.get_num_threads(), threads.KeptThreads()
    with guard:
        with guard:
            library.set_num_threads(1)
        assert library.get_num_threads() == 1
    assert library.get_num_threads() == before
