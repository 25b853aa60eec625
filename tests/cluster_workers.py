"""What tests of clusters share: two workers on this machine, and the comparison of two encodings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from sharpzo_mlx.cluster.leader import Leader
from sharpzo_mlx.cluster.opening import open_cluster
from sharpzo_mlx.cluster.work import NO_MODEL, Nap
from sharpzo_mlx.features.extract import Features
from sharpzo_mlx.runtime.helpers import helped_by


@contextmanager
def two_workers() -> Iterator[Leader]:
    """Yield a leader with two workers of one thread each; tests let it help by `helped_by`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENBLAS_NUM_THREADS", "1")
        with threadpool_limits(1), open_cluster("local:2") as found, helped_by(None):
            assert len(list(found.perform("nap", [Nap(0.1, 1)] * 4, NO_MODEL))) == 4
            yield found


def same(a: Features, b: Features) -> bool:
    """Whether two encodings are the same to the last bit."""
    equal = np.array_equal(np.array(a.embeddings), np.array(b.embeddings))
    return equal and (a.paths, a.skipped, a.content, a.digests) == (b.paths, b.skipped, b.content, b.digests)
