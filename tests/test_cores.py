"""Work on all cores: results in order, errors come out, and the BLAS has its threads back."""

from __future__ import annotations

import numpy as np
import pytest

from sharpzo_mlx.runtime import threads


def test_results_are_in_order() -> None:
    x = np.arange(12.0).reshape(3, 4)
    assert threads.spread(lambda n: float(x[n] @ x[n]), range(3)) == [14.0, 126.0, 366.0]


def test_an_error_comes_out_and_the_threads_come_back() -> None:
    library = threads._openblas()
    before = library.scipy_openblas_get_num_threads64_() if library else None

    def fail(n: int) -> None:
        raise ValueError(f"piece {n}")

    with pytest.raises(ValueError, match="piece 0"):
        threads.spread(fail, range(4))
    assert library is None or library.scipy_openblas_get_num_threads64_() == before


def test_without_a_known_blas_there_is_one_piece_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_openblas", lambda: None)
    threads.workers.cache_clear()
    try:
        assert threads.workers() == 1
        assert threads.spread(lambda n: n + 1, range(3)) == [1, 2, 3]
    finally:
        threads.workers.cache_clear()


def test_small_products_have_one_thread_and_leave_the_others_as_they_were() -> None:
    library = threads._openblas()
    if library is None or threads.workers() < 2:
        pytest.skip("NumPy has no OpenBLAS here, or one core")
    before = library.scipy_openblas_get_num_threads64_()
    with threads.small_products():
        assert library.scipy_openblas_get_num_threads64_() == 1
        assert threads.spread(lambda n: n * n, range(4)) == [0, 1, 4, 9]
        assert library.scipy_openblas_get_num_threads64_() == 1
    assert library.scipy_openblas_get_num_threads64_() == before
