"""open_clip's training checkpoints: the network from a file beside them, from the run, or from the user."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from torch_files import integer, training_file

from sharpzo_mlx.clip.catalog import find
from sharpzo_mlx.clip.checkpoint import load_config
from sharpzo_mlx.clip.config import CLIPConfig
from sharpzo_mlx.clip.model import CLIPModel
from sharpzo_mlx.convert import Told, convert
from sharpzo_mlx.convert.architectures import NAMES, describe
from sharpzo_mlx.convert.open_clip_config import translate_config
from sharpzo_mlx.convert.training import describe_run
from sharpzo_mlx.errors import UserError

GOLDEN = Path(__file__).parent / "golden"
PARAMS = "model: ViT-B-32\nforce_quick_gelu: False\npretrained: \nimage_mean: None\nprecision: amp\n"


def golden() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The network and the weights that open_clip itself wrote."""
    loaded = mx.load(str(GOLDEN / "vit.safetensors"))
    assert isinstance(loaded, dict)
    network: dict[str, Any] = json.loads((GOLDEN / "vit.json").read_text())["model_cfg"]
    return network, {name: np.array(value) for name, value in loaded.items()}


@pytest.fixture
def expected(tmp_path: Path, tiny_tokenizer: str) -> Path:
    """The model folder of the same weights in the usual form."""
    network, _ = golden()
    source = tmp_path / "usual"
    source.mkdir()
    shutil.copy(GOLDEN / "vit.safetensors", source / "open_clip_model.safetensors")
    (source / "open_clip_config.json").write_text(json.dumps({"model_cfg": network}))
    (source / "tokenizer.json").write_text(tiny_tokenizer)
    return convert(source, tmp_path / "expected").folder


@pytest.fixture
def run(tmp_path: Path, tiny_tokenizer: str) -> Path:
    """A folder with a training checkpoint and a tokenizer."""
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(tiny_tokenizer)
    save(folder / "epoch_32.pt", "module.", "state_dict")
    return folder


def save(path: Path, prefix: str, entry: str | None) -> Path:
    weights = {f"{prefix}{name}": value for name, value in golden()[1].items()}
    return training_file(path, weights, entry, epoch=integer(32))


def same_model(one: Path, other: Path) -> bool:
    files = ("model.safetensors", "config.json", "tokenizer.json")
    return all((one / file).read_bytes() == (other / file).read_bytes() for file in files)


@pytest.mark.parametrize("entry", ["state_dict", "model", "model_state_dict", "net", None])
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", ""])
def test_a_checkpoint_beside_its_description(run: Path, expected: Path, prefix: str, entry: str | None) -> None:
    (run / "open_clip_config.json").write_text(json.dumps({"model_cfg": golden()[0]}))
    save(run / "epoch_32.pt", prefix, entry)
    assert same_model(convert(run / "epoch_32.pt", run.parent / "m").folder, expected)
    assert same_model(convert(run, run.parent / "n").folder, expected)  # the only one in its folder


def test_the_network_that_the_user_names(run: Path, expected: Path) -> None:
    network = run.parent / "own.json"
    network.write_text(json.dumps(golden()[0]))
    made = convert(run / "epoch_32.pt", run.parent / "m", told=Told(str(network))).folder
    assert same_model(made, expected)
    quick = convert(run / "epoch_32.pt", run.parent / "q", told=Told(str(network), "quick_gelu")).folder
    assert load_config(quick).text.hidden_act == "quick_gelu"


def test_weights_of_another_network_than_the_named_one_are_refused(run: Path) -> None:
    said = r"epoch_32\.pt: --arch ViT-B-32-quickgelu is another network: .*vocab_size is 49408.* has 514; name the one"
    with pytest.raises(UserError, match=said):
        convert(run / "epoch_32.pt", run.parent / "m", told=Told("ViT-B-32-quickgelu"))
    assert not (run.parent / "m").exists()


def test_a_description_beside_weights_of_a_usual_name(run: Path, expected: Path) -> None:
    """As people save what they trained: open_clip's network, and a name of Hugging Face's."""
    (run / "epoch_32.pt").unlink()
    (run / "open_clip_config.json").write_text(json.dumps({"model_cfg": golden()[0]}))
    shutil.copy(GOLDEN / "vit.safetensors", run / "model.safetensors")
    assert same_model(convert(run, run.parent / "m").folder, expected)


def test_without_a_description_the_option_is_named(run: Path) -> None:
    for source in (run, run / "epoch_32.pt"):
        with pytest.raises(UserError, match=r"put it there, or name the network .*--arch ViT-B-32-quickgelu"):
            convert(source, run.parent / "m")


def test_of_several_checkpoints_one_has_to_be_named(run: Path) -> None:
    save(run / "epoch_31.pt", "module.", "state_dict")
    (run / "optimizer.pt").write_bytes(b"none")
    with pytest.raises(UserError, match=r"2 weights files: name one of them, such as .*epoch_32\.pt"):
        convert(run, run.parent / "m")
    with pytest.raises(UserError, match=r"run of open_clip: name one of its checkpoints, such as .*epoch_32\.pt"):
        convert(run.parent, run.parent / "m")


def test_a_run_describes_its_checkpoints(run: Path) -> None:
    """Its params.txt lies one folder above; the sizes are checked against the weights."""
    (run.parent / "params.txt").write_text(PARAMS)
    with pytest.raises(UserError, match=r"vocab_size is 49408"):
        convert(run / "epoch_32.pt", run.parent / "m")


RUNS: dict[str, tuple[str, str]] = {
    "plain": (PARAMS, "gelu"),
    "by its name": (PARAMS.replace("ViT-B-32", "ViT-B-32-quickgelu"), "quick_gelu"),
    "forced": (PARAMS.replace("gelu: False", "gelu: True"), "quick_gelu"),
    "of weights that are not OpenAI's": (PARAMS.replace("pretrained: ", "pretrained: laion2b_s34b_b79k"), "gelu"),
}


@pytest.mark.parametrize("case", RUNS)
def test_the_activation_of_a_run(tmp_path: Path, case: str) -> None:
    text, activation = RUNS[case]
    (tmp_path / "params.txt").write_text(text)
    found = translate_config(describe_run(tmp_path / "params.txt", Told()), name="")
    assert {found[tower]["hidden_act"] for tower in ("text_config", "vision_config")} == {activation}
    assert found["vision_config"]["patch_size"] == 32


def test_the_activation_of_weights_of_openai_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "params.txt").write_text(PARAMS.replace("pretrained: ", "pretrained: openai"))
    with pytest.raises(UserError, match=r"params\.txt: .*cannot be seen .*--activation quick_gelu"):
        describe_run(tmp_path / "params.txt", Told())
    told = describe_run(tmp_path / "params.txt", Told(None, "quick_gelu"))
    assert told["model_cfg"]["quick_gelu"] is True


def test_what_a_run_changed_in_the_network_and_the_images(tmp_path: Path) -> None:
    text = "force_image_size: [256, 256]\nforce_context_length: 32\nimage_resize_mode: squash\n"
    images = "image_std: [0.2, 0.3, 0.4]\nimage_interpolation: bilinear\n"
    (tmp_path / "params.txt").write_text(
        PARAMS.replace("image_mean: None", "image_mean: (0.5, 0.5, 0.5)") + text + images
    )
    found = translate_config(describe_run(tmp_path / "params.txt", Told()), name="")
    assert found["vision_config"]["image_size"] == 256
    assert found["text_config"]["max_position_embeddings"] == 32
    preprocessor = found["preprocessor"]
    assert (preprocessor["image_mean"], preprocessor["image_std"]) == ([0.5, 0.5, 0.5], [0.2, 0.3, 0.4])
    assert (preprocessor["do_center_crop"], preprocessor["resample"]) == (False, 2)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "model:\n",
        "model: ViT-B-16-SigLIP\n",
        PARAMS + "force_image_size: [1,\n",
        PARAMS + f"image_mean: {'[' * 9**5}\n",
    ],
)
def test_a_run_that_cannot_be_used(tmp_path: Path, text: str) -> None:
    (tmp_path / "params.txt").write_text(text)
    with pytest.raises(UserError, match=r"params\.txt: ") as caught:
        describe_run(tmp_path / "params.txt", Told())
    assert "\n" not in str(caught.value)


SIZES = {"ViT-B-32": "ViT-B/32", "ViT-B-16": "ViT-B/16", "ViT-L-14": "ViT-L/14", "ViT-L-14-336": "ViT-L/14@336px"}
SIZES |= {name: name for name in ("RN50", "RN101", "RN50x4")} | {"ViT-H-14": "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"}


@pytest.mark.parametrize("name", SIZES)
def test_named_networks_have_their_sizes(name: str) -> None:
    described = translate_config(describe(f"{name}-quickgelu", None), name="")
    parameters: dict[str, mx.array] = dict(tree_flatten(CLIPModel(CLIPConfig.from_dict(described)).parameters()))
    known = find(SIZES[name])
    assert known is not None
    assert known.parameters == sum(array.size for array in parameters.values())
    assert described["text_config"]["hidden_act"] == "quick_gelu"


@pytest.mark.parametrize("name", NAMES)
def test_every_named_network_can_be_built(name: str) -> None:
    found = CLIPConfig.from_dict(translate_config(describe(name, None, seen=True), name=""))
    assert found.text.hidden_act == ("quick_gelu" if name.endswith("quickgelu") else "gelu")


REFUSED: dict[str, tuple[Told, str]] = {
    "open": (Told("ViT-B-32"), "cannot be seen in the weights; add --activation quick_gelu .* --activation gelu"),
    "misspelt": (Told("ViT-B32"), "the nearest are ViT-B-32"),
    "other kind": (Told("coca_ViT-B-32"), "no CLIP of open_clip's"),
    "contradiction": (Told("ViT-B-32-quickgelu", "gelu"), "contradict"),
    "no file": (Told("absent.json"), r"absent\.json: cannot be read"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_networks_that_cannot_be_used(case: str) -> None:
    told, message = REFUSED[case]
    with pytest.raises(UserError, match=message) as caught:
        describe(told.architecture or "", told.activation)
    assert "\n" not in str(caught.value)


def test_a_network_without_a_twin_needs_no_activation() -> None:
    assert describe("ViT-g-14", None)["model_cfg"]["quick_gelu"] is False
    assert describe("ViT-B/32", "gelu")["model_cfg"]["quick_gelu"] is False


@pytest.mark.parametrize("told", [Told(activation="gelu"), Told("ViT-B-32", "gelu")])
def test_files_that_describe_themselves_take_no_options(tmp_path: Path, told: Told, tiny_model: Path) -> None:
    with pytest.raises(UserError, match=r"leave it out|--arch ViT-B-32 is another network: .*; name the"):
        convert(tiny_model, tmp_path / "m", told=told)
