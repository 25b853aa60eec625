"""Training checkpoints of Perception Encoders and MobileCLIPs by the names that open_clip gives their networks."""

from __future__ import annotations

import logging
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mobileclip_oracle import load_oracle
from perception_towers import JOINT, NAME, know_the_small_tower, load_golden, random_texts, write_open_clip
from torch_files import integer, training_file

from sharpzo_mlx.clip import catalog
from sharpzo_mlx.clip.checkpoint import load_config
from sharpzo_mlx.clip.config import CLIPConfig
from sharpzo_mlx.clip.model import CLIPModel
from sharpzo_mlx.convert import Told, convert, timm_networks
from sharpzo_mlx.convert.architectures import describe
from sharpzo_mlx.convert.open_clip_config import translate_config
from sharpzo_mlx.convert.training import describe_run
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.images.preprocessor import CLIP_MEAN

OURS = "PE-Core-B-16"
PARAMS = f"model: {OURS}\nforce_quick_gelu: False\npretrained: %s\nimage_mean: None\n"
FILES = ("model.safetensors", "config.json", "tokenizer.json")


@pytest.mark.parametrize("name", timm_networks.NAMES)
def test_a_named_network_has_the_size_of_the_published_one(name: str) -> None:
    config = CLIPConfig.from_dict(translate_config(describe(name, None), name=""))
    parameters: dict[str, mx.array] = dict(tree_flatten(CLIPModel(config).parameters()))
    known = catalog.find(name) or catalog.find(f"{name}-OpenCLIP")
    assert known is not None
    assert known.parameters == sum(array.size for array in parameters.values())
    assert config.text.hidden_act == "gelu"


@pytest.mark.parametrize("name", timm_networks.NAMES)
def test_a_named_network_is_open_clips(name: str) -> None:
    oracle, found = load_oracle(), describe(name, None)
    tag = oracle.list_pretrained_tags_by_model(name)[0]
    for field, value in oracle.get_pretrained_cfg(name, tag).items():
        if field in found["preprocess_cfg"]:
            same = value if isinstance(value, str) else pytest.approx(value)
            assert found["preprocess_cfg"][field] == same
    theirs = found | {"model_cfg": oracle.get_model_config(name)}
    assert translate_config(found, name="") == translate_config(theirs, name="")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the name stand for a network small enough for a test."""
    know_the_small_tower(monkeypatch)
    monkeypatch.setitem(timm_networks.PERCEPTION, OURS, (JOINT, NAME, (1, 16)))


def save_checkpoint(path: Path) -> Path:
    """Write what open_clip's training saves of a Perception Encoder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {f"visual.trunk.{name}": value for name, value in load_golden()[0].items()}
    weights |= {f"text.{name}": value for name, value in random_texts().items()} | {"logit_scale": mx.array(2.5)}
    arrays = {f"module.{name}": np.array(value) for name, value in weights.items()}
    return training_file(path, arrays, "state_dict", epoch=integer(3))


@pytest.mark.usefixtures("small")
def test_a_checkpoint_converts_by_the_name_of_its_network(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = convert(write_open_clip(tmp_path / "hub", load_golden()[0]), tmp_path / "expected").folder
    path = save_checkpoint(tmp_path / "mine" / "epoch_3.pt")
    with caplog.at_level(logging.WARNING, "sharpzo_mlx"):
        made = convert(path, tmp_path / "m", told=Told(OURS)).folder
    assert all((made / name).read_bytes() == (expected / name).read_bytes() for name in FILES)
    assert f"{path}: no params.txt says what was done to images; they are prepared as for the published" in caplog.text


@pytest.mark.usefixtures("small")
def test_a_checkpoint_converts_by_its_run(tmp_path: Path) -> None:
    """Also under a name that Meta's own file has."""
    for name in ("epoch_3.pt", "PE-Core-B16-mine.pt"):
        path = save_checkpoint(tmp_path / name / "checkpoints" / name)
        (tmp_path / name / "params.txt").write_text(PARAMS % "meta")
        prepared = load_config(convert(path, tmp_path / f"{name}-m").folder).preprocessor
        assert (prepared.mean, prepared.resample, prepared.crop) == ((0.5,) * 3, 2, None)


@pytest.mark.parametrize("begun", ["", "/data/weights.pt"])
def test_a_run_without_published_weights_has_clips_pixels(tmp_path: Path, begun: str) -> None:
    (tmp_path / "params.txt").write_text(PARAMS % begun + "image_std: [0.2, 0.2, 0.2]\n")
    found = translate_config(describe_run(tmp_path / "params.txt", Told()), name="")["preprocessor"]
    assert (found["image_mean"], found["image_std"]) == (CLIP_MEAN, [0.2, 0.2, 0.2])
    assert (found["do_center_crop"], found["resample"]) == (True, 3)


def test_open_clips_file_under_metas_name_asks_for_the_network(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "PE-Core-B16-mine.pt")
    with pytest.raises(UserError, match=r"PE-Core-B16-mine\.pt: .*name the network, such as --arch PE-Core-B-16$"):
        convert(path, tmp_path / "m")


@pytest.mark.parametrize("name", ["PE-Core-bigG-14-448", "pe-core-l14", "PE-Core-L-14"])
def test_a_name_that_is_not_known_gets_those_that_are(name: str) -> None:
    with pytest.raises(UserError, match=r"the nearest are .*PE-Core-L-14-336"):
        describe(name, None)
