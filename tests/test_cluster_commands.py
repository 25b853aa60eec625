"""The commands of a cluster, with workers in processes of their own on the loopback."""

from __future__ import annotations

import gc
import os
import socket
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from cluster_workers import free_port, line_of, started

import sharpzo_mlx as sz
from sharpzo_mlx.cli.main import run
from sharpzo_mlx.cluster.work import NO_MODEL, Nap
from sharpzo_mlx.datasets.folder import read_folder
from sharpzo_mlx.features.extract import encode


def test_encode_fills_the_cache(
    tiny_model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "bad.png").write_bytes(b"no picture")
    (tmp_path / "more" / "copy.png").write_bytes((photos / "cat" / "1.png").read_bytes())
    words = ["encode", str(photos), str(tmp_path), "--model", str(tiny_model)]
    assert run(words) == 0
    out, err = capsys.readouterr()
    assert out == "36 images encoded, 1 were in the cache, 1 could not be read\n"
    assert "bad.png" in err
    assert run([*words, "--json"]) == 0
    assert capsys.readouterr().out == '{"encoded": 0, "cached": 37, "unreadable": 1}\n'
    images = read_folder(photos)
    clip = sz.load(tiny_model)
    cached = encode(clip, images)
    fresh = encode(clip, images, cache=False)
    np.testing.assert_array_equal(np.array(cached.embeddings), np.array(fresh.embeddings))


def test_encode_without_images_is_refused(tiny_model: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    assert "no image to encode" in refused("encode", tmp_path, "--model", tiny_model)


def test_contradicting_options_are_refused(tmp_path: Path, refused: Callable[..., str]) -> None:
    assert "name one" in refused("encode", tmp_path, "--insecure")
    assert "leave out" in refused("encode", tmp_path, "--cluster", "local:2", "--insecure")
    assert "--make-certificate" in refused("tune", tmp_path, "--cluster", "mac-a.local:8786")
    assert "starts its workers itself" in refused("worker", "local:2")
    assert "no address" in refused("worker")
    assert "write it like" in refused("worker", "127.0.0.1:9", "--memory-limit", "much")


def test_a_missing_extra_is_named(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert 'pip install "sharpzo-mlx[cluster]"' in refused("worker", "127.0.0.1:9")
    assert 'pip install "sharpzo-mlx[cluster]"' in refused("encode", ".", "--cluster", "local:1")


def test_a_worker_waits_for_one_leader_after_another(tiny_model: Path, photos: Path, tmp_path: Path) -> None:
    """With a certificate that both have; the worker is started first, and is there for the second leader too."""
    certificate = tmp_path / "cluster.pem"
    assert run(["worker", "--make-certificate", str(certificate)]) == 0
    address = f"127.0.0.1:{free_port()}"
    clip, images = sz.load(tiny_model), read_folder(photos)
    alone = encode(clip, images, cache=False)
    with started("worker", address, "--certificate", certificate, "--model", tiny_model) as worker:
        line_of(worker, "waits for a leader")
        for _ in range(2):
            with sz.open_cluster(address, certificate=certificate) as leader:
                assert leader.url.startswith("tls://")
                assert len(list(leader.perform("nap", [Nap(0.0, 0)] * 3, NO_MODEL))) == 3
                helped = encode(clip, images)
            np.testing.assert_array_equal(np.array(helped.embeddings), np.array(alone.embeddings))
            line_of(worker, "works for")


def test_who_waits_for_workers_is_told_how_to_start_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The line that is said has what a worker there needs, the certificate among it."""
    monkeypatch.setattr("sharpzo_mlx.cluster.leader.QUIET_SECONDS", 0.0)
    certificate = tmp_path / "cluster.pem"
    assert run(["worker", "--make-certificate", str(certificate)]) == 0
    address = f"127.0.0.1:{free_port()}"
    with sz.open_cluster(address, certificate=certificate) as leader:
        pieces = leader.perform("nap", [Nap(0.0, 0)], NO_MODEL)
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(list, pieces)
            end = time.monotonic() + 20
            while "no worker yet" not in caplog.text and time.monotonic() < end:
                time.sleep(0.05)
            with started("worker", address, "--certificate", certificate, "--once"):
                done.result(30)
    assert f"sharpzo-mlx worker tls://{address} --certificate FILE" in caplog.text


def test_another_version_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setattr("sharpzo_mlx.cluster.passport.source_digest", lambda: "0" * 12)  # of the leader alone
    with sz.open_cluster(address), started("worker", address) as worker:
        assert "sources is" in line_of(worker, "refuses this worker")
        assert worker.wait(20) == 2


def test_another_model_is_refused_by_name(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sharpzo_mlx.runtime.helpers import Model

    address = f"127.0.0.1:{free_port()}"
    with sz.open_cluster(address) as leader, started("worker", address, "--model", tiny_model) as stranger:
        pieces = leader.perform("nap", [Nap(0.0, 7)], Model("f" * 32, tmp_path / "gone"))
        with pytest.raises(sz.UserError, match="no worker is left"):
            next(pieces)
        assert "copy the model's folder" in line_of(stranger, "error:")
        assert stranger.wait(20) == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of tornado's half-open socket
def test_an_address_in_use_is_refused(refused: Callable[..., str], photos: Path, tiny_model: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        line = refused("encode", photos, "--model", tiny_model, "--cluster", address)
    assert "cannot be listened on" in line
    gc.collect()


def test_a_leader_that_is_killed_goes_on_where_it_was(
    tiny_model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its workers go with it; the same command ends with the features of an undisturbed run."""
    words = ("encode", photos, "--model", tiny_model, "--cluster", "local:1")
    with started(*words) as leader:
        line = f"{leader.pid}"
        for _ in range(400):
            children = subprocess.run(["pgrep", "-P", line], capture_output=True, text=True, check=False).stdout.split()
            if children:
                break
        leader.kill()
        leader.wait()
    assert all(not _lives(int(child)) for child in children)
    assert run([str(word) for word in words]) == 0
    clip, images = sz.load(tiny_model), read_folder(photos)
    fresh = encode(clip, images, cache=False)
    np.testing.assert_array_equal(np.array(encode(clip, images).embeddings), np.array(fresh.embeddings))


def _lives(pid: int, patience: float = 10.0) -> bool:
    """Whether a process is still there after some time."""
    import time

    end = time.monotonic() + patience
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
            if "Z" in Path(f"/proc/{pid}/stat").read_text().split(")")[1][:3]:
                return False
        except (ProcessLookupError, FileNotFoundError):
            return False
        time.sleep(0.1)
    return True
