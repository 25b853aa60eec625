"""The list of known names: short names resolve, sizes are those of the networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from sharpzo_mlx.clip.catalog import KNOWN, resolve, suggest
from sharpzo_mlx.clip.config import CLIPConfig
from sharpzo_mlx.clip.model import CLIPModel
from sharpzo_mlx.convert.layout import OPEN_CLIP, files_to_download
from sharpzo_mlx.convert.open_clip_config import translate_config

# embedding width, image tower, text width: as the networks' papers and configurations describe them
NETWORKS: dict[str, tuple[int, dict[str, Any], int]] = {
    "ViT-B/32": (512, {"width": 768, "layers": 12, "patch_size": 32}, 512),
    "ViT-B/16": (512, {"width": 768, "layers": 12, "patch_size": 16}, 512),
    "ViT-L/14": (768, {"width": 1024, "layers": 24, "patch_size": 14}, 768),
    "ViT-L/14@336px": (768, {"width": 1024, "layers": 24, "patch_size": 14, "image_size": 336}, 768),
    "RN50": (1024, {"width": 64, "layers": [3, 4, 6, 3]}, 512),
    "RN101": (512, {"width": 64, "layers": [3, 4, 23, 3]}, 512),
    "RN50x4": (640, {"width": 80, "layers": [4, 6, 10, 6], "image_size": 288}, 640),
}


@pytest.mark.parametrize("alias", NETWORKS)
def test_sizes_are_those_of_the_networks(alias: str) -> None:
    width, vision, words = NETWORKS[alias]
    text = {"width": words, "heads": words // 64, "layers": 12}
    described = translate_config({"model_cfg": {"embed_dim": width, "vision_cfg": vision, "text_cfg": text}}, name="x")
    parameters: dict[str, mx.array] = dict(tree_flatten(CLIPModel(CLIPConfig.from_dict(described)).parameters()))
    known = next(known for known in KNOWN if known.alias == alias)
    assert known.parameters == sum(array.size for array in parameters.values())


@pytest.mark.parametrize("name", ["ViT-B/16", "vit-b-16", "ViT-B-16"])
def test_short_names(name: str) -> None:
    assert resolve(name) == "openai/clip-vit-base-patch16"


def test_other_names_stay() -> None:
    assert resolve("RN50") == "timm/resnet50_clip.openai"
    assert resolve("owner/RN50") == "owner/RN50"
    assert resolve("ViT-L/14@336px") == "openai/clip-vit-large-patch14-336"


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("https://example.org/openai/clip-vit-base-patch16/tree/main", "openai/clip-vit-base-patch16"),
        ("hf://models/own/tiny", "own/tiny"),
        ("hf-hub:timm/ViT-B-16-SigLIP2", "timm/ViT-B-16-SigLIP2"),
        (' "own/tiny" ', "own/tiny"),
    ],
)
def test_the_name_in_an_address_is_given(given: str, name: str) -> None:
    assert suggest(given) == f"no name on the hub as it is; give the name alone: {name}"


@pytest.mark.parametrize("given", ["runs/absent", "./runs/absent", "own/tiny/", "https://example.org/x.pt"])
def test_a_path_is_no_address(given: str) -> None:
    assert "give the name alone" not in suggest(given)


def test_of_timms_repositories_the_file_with_both_towers_is_downloaded(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architecture": "resnet50_clip", "pretrained_cfg": {}}')
    names = ["config.json", "model.safetensors", "open_clip_config.json", *OPEN_CLIP, "README.md", "tokenizer.json"]
    chosen = files_to_download(names, tmp_path.joinpath)
    assert chosen == ["config.json", "README.md", "tokenizer.json", "open_clip_config.json", OPEN_CLIP[0]]
    (tmp_path / "config.json").write_text('{"model_type": "clip", "text_config": {}, "vision_config": {}}')
    assert files_to_download(names, tmp_path.joinpath)[-1] == "model.safetensors"
