"""Repositories on the hub whose weights file has a name of its own, such as epoch_32.pt of open_clip's training."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_hub import FakeHub, huggingface_hub

from sharpzo_mlx.convert import Told, sources
from sharpzo_mlx.convert.conversion import default_output
from sharpzo_mlx.errors import UserError


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """A repository with a training checkpoint of open_clip's and what its run says of it."""
    (tmp_path / "params.txt").write_text("model: ViT-B-32-quickgelu\n")
    (tmp_path / "epoch_32.pt").write_bytes(b"x")
    fake = FakeHub(tmp_path, ["README.md", "params.txt", "epoch_32.pt", "results.jsonl", "optimizer.pt"])
    fake.install(monkeypatch)
    return fake


def test_the_only_weights_file_is_found_whatever_its_name(trained: FakeHub) -> None:
    found = sources.find("owner/clip-model")
    assert found.weights == (trained.folder / "epoch_32.pt",)
    assert found.config is not None
    assert found.config["text_config"]["hidden_act"] == "quick_gelu"
    assert trained.downloaded == ["README.md", "params.txt", "epoch_32.pt"]


def test_without_a_description_the_networks_name_is_asked_for(trained: FakeHub) -> None:
    trained.names.remove("params.txt")
    (trained.folder / "params.txt").unlink()
    with pytest.raises(UserError, match=r"epoch_32\.pt: .*--arch ViT-B-32-quickgelu"):
        sources.find("owner/clip-model")
    found = sources.find("owner/clip-model", told=Told("ViT-B-16-quickgelu"))
    assert found.config is not None
    assert found.config["vision_config"]["patch_size"] == 16


def test_of_several_weights_files_one_has_to_be_named(trained: FakeHub) -> None:
    trained.names += ["epoch_4.pt", "checkpoints/epoch_8.pt"]
    several = r"owner/clip-model: 2 weights files \(epoch_4\.pt, epoch_32\.pt\): .* as in NAME/epoch_32\.pt$"
    with pytest.raises(UserError, match=several):
        sources.find("owner/clip-model")
    assert trained.downloaded == []
    found = sources.find("owner/clip-model/epoch_32.pt")
    assert (found.name, found.on_hub) == ("owner/clip-model", True)
    assert found.weights == (trained.folder / "epoch_32.pt",)
    (trained.folder / "checkpoints").mkdir()
    (trained.folder / "checkpoints" / "epoch_8.pt").write_bytes(b"x")
    found = sources.find("owner/clip-model/checkpoints/epoch_8.pt")  # its params.txt lies one folder above
    assert found.weights == (trained.folder / "checkpoints" / "epoch_8.pt",)
    with pytest.raises(UserError, match=r"has no weights file epoch_5\.pt; it has epoch_4\.pt, epoch_32\.pt$"):
        sources.find("owner/clip-model/epoch_5.pt")


def test_a_file_of_a_repository_has_the_repositorys_place() -> None:
    assert default_output("owner/clip-model/epoch_4.pt") == default_output("owner/clip-model")


def test_a_training_checkpoint_downloaded_before_is_used_without_a_network(
    trained: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained.trouble = ConnectionError("no route")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    kept = tmp_path / "hub" / "models--owner--clip-model" / "snapshots" / ("a" * 40)
    kept.mkdir(parents=True)
    (kept / "params.txt").write_text("model: ViT-B-32-quickgelu\n")
    (kept / "epoch_32.pt").write_bytes(b"x")
    for name in ("owner/clip-model", "owner/clip-model/epoch_32.pt"):
        assert sources.find(name).weights == (kept / "epoch_32.pt",)
    with pytest.raises(UserError, match="the hub cannot be reached"):
        sources.find("owner/clip-model/epoch_31.pt")
