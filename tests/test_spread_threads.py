"""A candidate has the same bits whatever number of threads the worker's BLAS has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_spread_search import Workers, ask, make_objective

import sharpzo_mlx as sz
from sharpzo_mlx.objective import spreading
from sharpzo_mlx.objective.objective import Objective
from sharpzo_mlx.runtime.helpers import helped_by
from sharpzo_mlx.runtime.threads import given_threads, mlx_threads

LOSSES = """
import hashlib
import sharpzo_mlx
import numpy as np
from sharpzo_mlx.objective.loss import image_losses_numpy
rng = np.random.default_rng(0)
features, embeddings = (rng.standard_normal(shape, dtype=np.float32) for shape in ((8, 61, 512), (75, 512)))
losses = image_losses_numpy(features, embeddings, np.arange(75) % 61, 1.0)
print(hashlib.sha256(losses.tobytes()).hexdigest())
"""


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="a BLAS has one thread on one core")
def test_losses_do_not_depend_on_the_threads_of_numpys_blas() -> None:
    found = {
        subprocess.run(
            [sys.executable, "-c", LOSSES],
            env={**os.environ, "OPENBLAS_NUM_THREADS": threads},
            check=True,
            capture_output=True,
        ).stdout
        for threads in ("1", "2")
    }
    assert len(found) == 1


@pytest.mark.skipif(not mlx_threads(), reason="MLX's BLAS is no OpenBLAS")
def test_a_worker_computes_with_the_leaders_threads(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spreading, "WORTH_SENDING", 0)
    clip, seen, plain = sz.load(tiny_model), list[int](), Objective.compute

    def noted(*given: Any, **named: Any) -> Any:
        seen.append(mlx_threads())
        return plain(*given, **named)

    monkeypatch.setattr(Objective, "compute", noted)
    before = mlx_threads()
    with given_threads(3):
        objective = make_objective(clip)
        alone = ask(objective, "losses", 9)
    with helped_by(Workers(clip)), given_threads(1):
        np.testing.assert_array_equal(ask(objective, "losses", 9)[0], alone[0])
    assert set(seen) == {3}
    assert mlx_threads() == before
