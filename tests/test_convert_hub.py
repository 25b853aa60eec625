"""The hub, without a network: its library's functions are replaced by ones that answer as it does."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_hub import SMALL, FakeHub

from sharpzo_mlx.convert import sources
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.hub import download as hub

huggingface_hub = pytest.importorskip("huggingface_hub")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    (tmp_path / "config.json").write_text("{}")
    fake = FakeHub(tmp_path, [*SMALL, "pytorch_model.bin", "tf_model.h5", "flax_model.msgpack"])
    fake.install(monkeypatch)
    return fake


def test_only_the_files_needed_are_downloaded(model: FakeHub) -> None:
    (model.folder / "pytorch_model.bin").write_bytes(b"x")
    found = sources.find("owner/clip-model")
    assert found.on_hub
    assert found.name == "owner/clip-model"
    assert found.weights == (model.folder / "pytorch_model.bin",)
    assert set(model.downloaded) == {*SMALL[:4], "pytorch_model.bin"}
    assert len(model.downloaded) == 5


def test_safetensors_come_before_pickles(model: FakeHub) -> None:
    model.names.append("model.safetensors")
    (model.folder / "model.safetensors").write_bytes(b"x")
    sources.find("owner/clip-model")
    assert "model.safetensors" in model.downloaded
    assert "pytorch_model.bin" not in model.downloaded


def test_shards_are_downloaded_by_their_index(model: FakeHub) -> None:
    model.names = ["config.json", "vocab.json", "merges.txt", "model.safetensors.index.json"]
    index = '{"weight_map": {"a": "model-2.safetensors", "b": "model-1.safetensors", "c": "model-2.safetensors"}}'
    (model.folder / "model.safetensors.index.json").write_text(index)
    for part in (1, 2):
        (model.folder / f"model-{part}.safetensors").write_bytes(b"x")
    found = sources.find("owner/clip-model")
    assert [path.name for path in found.weights] == ["model-1.safetensors", "model-2.safetensors"]
    wanted = {"config.json", "vocab.json", "merges.txt", "model.safetensors.index.json"}
    assert set(model.downloaded) == wanted | {"model-1.safetensors", "model-2.safetensors"}


def test_a_folder_comes_before_the_hub(model: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "clip-model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no config\.json"):
        sources.find("owner/clip-model")
    assert model.downloaded == []


def trouble(kind: str, status: int | None = None) -> Exception:
    error: Exception = type(kind, (Exception,), {})("several\nlines")
    if status is not None:
        error.response = SimpleNamespace(status_code=status)  # type: ignore[attr-defined]
    return error


TROUBLES: dict[str, tuple[Exception, str]] = {
    "no network": (trouble("ConnectError"), "cannot be reached; .*on another machine and give its path"),
    "requests": (ConnectionError("no route"), "cannot be reached"),
    "unknown": (trouble("RepositoryNotFoundError", 401), "no such model on the hub"),
    "gated": (trouble("GatedRepoError", 403), "asks for an agreement"),
    "server": (trouble("HfHubHTTPError", 503), "the hub answered 503"),
    "name": (trouble("HFValidationError"), "no possible name"),
    "disk": (OSError(28, "No space left on device"), "no space left"),
}


@pytest.mark.parametrize("case", TROUBLES)
def test_troubles_are_one_line(model: FakeHub, case: str) -> None:
    model.trouble, message = TROUBLES[case]
    with pytest.raises(UserError, match=f"owner/clip-model: .*{message}") as caught:
        sources.find("owner/clip-model")
    assert "\n" not in str(caught.value)


COMMITS = ("a" * 40, "b" * 40)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache after a download that asked for a commit: no branch is noted in it."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "hub" / "models--owner--clip-model" / "snapshots" / COMMITS[0]
    folder.mkdir(parents=True)
    for name in (*SMALL[:4], "pytorch_model.bin"):
        (folder / name).write_text("{}")
    return folder


def copy_older(kept: Path, *without: str) -> Path:
    """Another download beside the first one, which is older, without some files."""
    other = kept.with_name(COMMITS[1])
    shutil.copytree(kept, other)
    for name in without:
        (other / name).unlink()
    os.utime(other, (1, 1))
    return other


def test_without_a_network_an_earlier_download_is_used(
    model: FakeHub, kept: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model.trouble = ConnectionError("no route")
    with caplog.at_level(logging.WARNING, "sharpzo_mlx"):
        assert sources.find("owner/clip-model").weights == (kept / "pytorch_model.bin",)
    assert "no network; using the files of an earlier download" in caplog.text
    assert model.downloaded == []


def test_of_several_downloads_the_branchs_own_is_used(model: FakeHub, kept: Path) -> None:
    model.trouble = ConnectionError("no route")
    other = copy_older(kept)
    assert sources.find("owner/clip-model").folder == kept  # the newest, where no branch is noted
    (kept.parents[1] / "refs").mkdir()
    (kept.parents[1] / "refs" / "main").write_text(COMMITS[1])
    assert sources.find("owner/clip-model").folder == other


@pytest.mark.parametrize("missing", ["pytorch_model.bin", "config.json"])
def test_a_download_that_was_cut_off_is_not_used(model: FakeHub, kept: Path, missing: str) -> None:
    model.trouble = ConnectionError("no route")
    other = copy_older(kept)
    (kept / missing).unlink()
    assert sources.find("owner/clip-model").folder == other
    (other / missing).unlink()
    with pytest.raises(UserError, match="the hub cannot be reached"):
        sources.find("owner/clip-model")


def test_of_shards_none_may_be_missing(model: FakeHub, kept: Path) -> None:
    model.trouble = ConnectionError("no route")
    (kept / "pytorch_model.bin").unlink()
    (kept / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}'
    )
    (kept / "m-1.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match="the hub cannot be reached"):
        sources.find("owner/clip-model")
    (kept / "m-2.safetensors").write_bytes(b"x")
    assert [path.name for path in sources.find("owner/clip-model").weights] == ["m-1.safetensors", "m-2.safetensors"]


def test_offline_by_a_variable_the_variable_is_named(model: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    model.trouble = trouble("OfflineModeIsEnabled")
    with pytest.raises(UserError, match=r"HF_HUB_OFFLINE is set.*would have fetched from owner/x its conf.*unset"):
        sources.find("owner/x")


def test_what_would_have_been_fetched_is_said(model: FakeHub) -> None:
    model.trouble = ConnectionError("no route")
    wanted = r"fetched from timm/resnet50_clip\.openai open_clip_config\.json, .*\(about 408 MB\): check the network"
    with pytest.raises(UserError, match=wanted):
        sources.find("RN50")


def test_a_misspelt_repository_gets_the_nearest_ones(model: FakeHub) -> None:
    model.trouble = trouble("RepositoryNotFoundError", 401)
    with pytest.raises(UserError, match=r"check the name \(the nearest known are google/siglip2-base-patch16-224"):
        sources.find("google/siglip2-base-patch16-244")


DISK = [errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EPERM]


@pytest.mark.parametrize("number", DISK)
def test_a_cache_that_cannot_be_written_is_not_the_network(
    model: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path / "home"))
    model.disk = OSError(number, os.strerror(number), str(tmp_path / "home" / "hub"))
    with pytest.raises(
        UserError, match=rf"hub's cache, .*home, cannot be written \({os.strerror(number).lower()}\); set HF"
    ):
        sources.find("owner/clip-model")


def test_a_read_only_cache_that_has_the_files_is_enough(
    model: FakeHub, kept: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model.disk = PermissionError(errno.EACCES, "Permission denied", str(kept))
    with caplog.at_level(logging.WARNING, "sharpzo_mlx"):
        assert sources.find("owner/clip-model").folder == kept
    assert "its cache cannot be written; using the files of an earlier download" in caplog.text


def test_a_model_without_weights_is_refused(model: FakeHub) -> None:
    model.names = ["config.json", "open_clip_config.json"]
    with pytest.raises(UserError, match="owner/clip-model: no weights: one of"):
        sources.find("owner/clip-model")
    model.names = ["config.json", "model.onnx"]
    with pytest.raises(UserError, match="owner/clip-model: no weights"):
        sources.find("owner/clip-model")


def test_bars_are_drawn_only_when_asked_for(model: FakeHub) -> None:
    from huggingface_hub.utils import are_progress_bars_disabled

    seen: list[bool] = []

    def choose(names: Collection[str], read: hub.Reader) -> list[str]:
        seen.append(are_progress_bars_disabled())
        return []

    before = are_progress_bars_disabled()
    hub.fetch("owner/name", choose)
    hub.fetch("owner/name", choose, progress=True)
    assert seen == [True, before]
    assert are_progress_bars_disabled() == before


@pytest.mark.parametrize("name", ["apple/MobileCLIP-S0", "apple/MobileCLIP-S0-OpenCLIP", "mobileclip_s0"])
def test_the_first_mobileclip_s0_is_refused_before_a_download(model: FakeHub, name: str) -> None:
    model.trouble = trouble("the hub was asked")
    with pytest.raises(UserError, match=f"^{name}: its text tower .* use MobileCLIP2-S0") as refused:
        sources.find(name)
    assert "\n" not in str(refused.value)
    assert model.downloaded == []
