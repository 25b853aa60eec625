"""Make the golden files of SigLIP in tests/golden: tiny models, a tiny tokenizer, and what their libraries give.

They stand in for transformers, open_clip, timm and SentencePiece where these are not installed. Run it where they are:

    python tests/make_golden_siglip.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from siglip_golden import GOLDEN, IDS, STRINGS, pixels

SHARED = {"hidden_size": 16, "intermediate_size": 36, "num_attention_heads": 2, "num_hidden_layers": 2}
TEXT = {"context_length": 12, "vocab_size": 600, "hf_tokenizer_name": "x/SigLIP2", "width": 16, "heads": 2} | {
    "layers": 2, "no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6},
    "act_kwargs": {"approximate": "tanh"},
}  # fmt: skip
VISION = {"image_size": 16, "timm_model_name": "vit_tiny_patch8_siglip_16", "timm_pool": "map", "timm_proj": "none"}
RULES = {"FF21": "41", "65 301": "E9", "FB01": "66 69", "A8": "20 308", "BD": "31 2044 32"}  # of characters


def save(name: str, model: Any, described: dict[str, Any], features: tuple[Any, ...], made_by: str) -> None:
    from safetensors.torch import save_file

    images, texts = features
    logits = model.logit_scale.exp() * images @ texts.T + model.logit_bias
    expected = {"images": images.tolist(), "texts": texts.tolist(), "logits": logits.tolist(), "made_by": made_by}
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, GOLDEN / f"{name}.safetensors")
    (GOLDEN / f"{name}.json").write_text(json.dumps({"config": described, "expected": expected}, indent=1) + "\n")


def shake(torch: Any, model: Any) -> Any:
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.3)
        model.logit_scale.fill_(2.0)
        model.logit_bias.fill_(-3.5)
    return model.eval()


def make_transformers() -> None:
    from test_clip_parity import import_oracle

    torch, transformers = import_oracle()
    config = transformers.SiglipConfig(
        text_config=SHARED | {"vocab_size": 600, "max_position_embeddings": 12},
        vision_config=SHARED | {"image_size": 16, "patch_size": 8},
    )
    model = shake(torch, transformers.SiglipModel(config))
    with torch.no_grad():
        out = model(torch.tensor(IDS), torch.tensor(pixels(16).transpose(0, 3, 1, 2).copy()))
        described = json.loads(config.to_json_string())
        features = (out.image_embeds, out.text_embeds)
        save("siglip", model, described, features, f"transformers {transformers.__version__}")


def make_open_clip() -> None:
    import oracle_open_clip
    import torch

    library = oracle_open_clip.load()
    from timm.models.vision_transformer import VisionTransformer

    size = {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8}
    model = library.CustomTextCLIP(embed_dim=16, vision_cfg=size, text_cfg=TEXT, init_logit_bias=-10)
    model.visual = torch.nn.Module()
    model.visual.trunk = trunk = VisionTransformer(
        img_size=16,
        patch_size=8,
        embed_dim=16,
        depth=2,
        num_heads=2,
        class_token=False,
        global_pool="map",
        num_classes=0,
    )
    shake(torch, model)
    with torch.no_grad():
        images = trunk(torch.tensor(pixels(16)).permute(0, 3, 1, 2))
        texts = model.encode_text(torch.tensor(IDS), normalize=True)
        features = (torch.nn.functional.normalize(images, dim=-1), texts)
        described = {"embed_dim": 16, "init_logit_bias": -10, "vision_cfg": VISION, "text_cfg": TEXT}
        save("siglip_open_clip", model, described, features, f"open_clip {library.__version__}")


def make_tokenizer() -> None:
    from siglip_tokenizers import train_unigram
    from test_clip_parity import import_oracle

    _, transformers = import_oracle()
    rules = GOLDEN / "rules.tsv"
    rules.write_text("".join(f"{before}\t{after}\n" for before, after in RULES.items()))
    path = train_unigram(GOLDEN / "siglip_spiece.model", rules=rules, size=200)
    rules.unlink()
    theirs = transformers.SiglipTokenizer(str(path))
    ids = {text: theirs(text)["input_ids"] for text in STRINGS}
    (GOLDEN / "siglip_ids.json").write_text(json.dumps(ids, indent=1) + "\n")


if __name__ == "__main__":
    assert np.array(IDS).shape == (2, 12)
    make_transformers()
    make_open_clip()
    make_tokenizer()
