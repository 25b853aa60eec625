"""Encode images with transformers' CLIP on torch, as the competitor of `features.py`, in a separate process.

usage: python torch_features.py MODEL_FOLDER THREADS IMAGE...   (prints JSON: seconds of each round, last features)
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPConfig, CLIPImageProcessor, CLIPVisionModelWithProjection

BATCH = 32
ROUNDS = 2


def model_from(folder: str) -> CLIPVisionModelWithProjection:
    """Load the image tower whose weights `features.py` wrote under transformers' names."""
    config = CLIPConfig.from_pretrained(folder)
    config.vision_config.projection_dim = config.projection_dim
    model = CLIPVisionModelWithProjection(config.vision_config)
    missing, unused = model.load_state_dict(load_file(f"{folder}/weights.safetensors"), strict=False)
    missing = [name for name in missing if "position_ids" not in name]
    assert not missing, missing
    assert not unused, unused
    return model.eval()


@torch.inference_mode()
def encode(model: CLIPVisionModelWithProjection, processor: CLIPImageProcessor, paths: list[str]) -> torch.Tensor:
    """Decode, preprocess and encode images in batches."""
    rows = []
    for start in range(0, len(paths), BATCH):
        images = [Image.open(path).convert("RGB") for path in paths[start : start + BATCH]]
        pixels = processor(images=images, return_tensors="pt")["pixel_values"]
        features = model(pixel_values=pixels).image_embeds
        rows.append(features / features.norm(dim=-1, keepdim=True))
    return torch.cat(rows)


def main() -> None:
    """Encode the images in rounds."""
    folder, threads, *paths = sys.argv[1:]
    torch.set_num_threads(int(threads))
    model, processor = model_from(folder), CLIPImageProcessor.from_pretrained(folder)
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter(), time.process_time()
        features = encode(model, processor, paths)
        seconds.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    np.save(f"{folder}/features.npy", features.numpy())
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
