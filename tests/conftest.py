"""Fixtures that many tests share: the testbed beside the repository, and caches in a temporary folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import sharpzo_mlx  # noqa: F401  (before any import of mlx: it loads OpenBLAS)

TESTBED = Path(__file__).resolve().parents[2] / "shared" / "testbed"


@pytest.fixture(scope="session")
def testbed() -> Path:
    """The folder with the small real CLIP and the real images; tests that need it are skipped where it is not."""
    if not TESTBED.is_dir():
        pytest.skip("no testbed beside this checkout")
    return TESTBED


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test reads or writes the user's caches."""
    monkeypatch.setenv("SHARPZO_MLX_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
