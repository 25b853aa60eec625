"""`cluster=` of the public functions: one call is helped, and nothing of dask is there without it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cluster_workers import Here
from comparison_runs import CONFIG

import sharpzo_mlx as sz
from sharpzo_mlx.datasets.folder import read_folder
from sharpzo_mlx.features.extract import encode
from sharpzo_mlx.runtime.helpers import current


@pytest.fixture
def helper(monkeypatch: pytest.MonkeyPatch) -> Here:
    """The only helper of all clusters."""
    found = Here()
    monkeypatch.setattr(sz, "open_cluster", found.open)
    return found


CALLS: dict[str, Callable[[Path, Path, Path, Path], object]] = {
    "tune": lambda model, run, photos, out: sz.tune(
        sz.load(model), photos, CONFIG, output=out, report=False, cluster="local:7"
    ),
    "evaluate": lambda model, run, photos, out: sz.evaluate(run, photos, cluster="local:7"),
    "predict": lambda model, run, photos, out: sz.predict(run, photos / "cat", cluster="local:7"),
    "compare": lambda model, run, photos, out: sz.compare(
        sz.load(model), photos, CONFIG, methods="bbt", seeds=1, output=out, cluster="local:7"
    ),
    "fill_cache": lambda model, run, photos, out: sz.fill_cache(sz.load(model), photos, cluster="local:7"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_helped(
    name: str,
    helper: Here,
    tiny_model: Path,
    finished_run: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SHARPZO_MLX_CACHE", str(tmp_path / "empty"))
    run = shutil.copytree(finished_run, tmp_path / "run")
    CALLS[name](tiny_model, run, photos, tmp_path / "out")
    assert helper.addresses == ["local:7"]
    assert set(helper.works) == ({"encode", "cell"} if name == "compare" else {"encode"})
    assert current() is None  # the next call is not helped


def test_a_call_has_workers_of_its_own(tiny_model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    clip, images = sz.load(tiny_model), read_folder(photos)
    assert sz.fill_cache(clip, photos, cluster="local:1").encoded > 0
    helped = encode(clip, images)
    np.testing.assert_array_equal(
        np.array(helped.embeddings), np.array(encode(clip, images, cache=False).embeddings), strict=True
    )


@pytest.mark.parametrize(("address", "complaint"), [("local:0", "from 1 to 256"), ("mac-a.local:1", "in Python: open")])
def test_what_is_no_cluster_is_refused(address: str, complaint: str, finished_run: Path, photos: Path) -> None:
    with pytest.raises(sz.UserError, match=complaint):
        sz.predict(finished_run, photos, cluster=address)


def test_without_a_cluster_dask_is_not_imported(tiny_model: Path, photos: Path) -> None:
    code = (
        "import sys; import sharpzo_mlx as sz\n"
        "assert not {'mlx.core', 'sharpzo_mlx.cluster'} & set(sys.modules)\n"
        f"sz.fill_cache(sz.load({str(tiny_model)!r}), {str(photos)!r})\n"
        "assert not {'dask', 'distributed', 'cryptography'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
