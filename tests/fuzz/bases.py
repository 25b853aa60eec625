"""Make what the fuzzer changes: small whole models, checkpoints, runs, comparisons, data sets, caches and images.

Each base is a folder. `case` copies one, so that nothing of a case is left to the next.

>>> make_bases(Path("work/bases"))  # doctest: +SKIP
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
from damaged_models import copy, unsign
from hf_checkpoint import write_checkpoint
from PIL import Image
from siglip_checkpoint import write_siglip
from siglip_golden import GOLDEN
from tiny_settings import TINY
from torch_files import storage, tensor, text, zip_file

COLOURS = {"cat": (200, 60, 40), "dog": (40, 180, 70), "barn owl": (50, 60, 220)}
SETTINGS = [word for key, value in TINY.items() for word in ("--set", f"{key}={value}")]
SHORT = ["--shots", "2", "--views", "1", "--generations", "1", "--steps", "1", "--no-report", *SETTINGS]
LONG = ["--head", "none", "--shots", "4", "--generations", "3", "--steps", "12", "--no-report", *SETTINGS]
COMPARED = ["--methods", "zero-shot,ncm", "--seeds", "1", "--shots", "2", "--query-budget", "20"]


def run(*words: str | Path) -> None:
    """Run a command line that must succeed."""
    from sharpzo_mlx.cli import main

    code = main.run([str(word) for word in words])
    if code:
        raise RuntimeError(f"{words} ended with {code}")


def make_bases(folder: Path) -> None:
    """Fill a folder with all bases; to be called in a child, for it computes."""
    folder.mkdir(parents=True)
    os.environ["SHARPZO_MLX_CACHE"] = str(folder / "cache")
    photos = make_photos(folder / "photos")
    make_checkpoints(folder)
    model = folder / "model"
    run("convert", folder / "hf", "--output", model)
    unsign(copy(model, folder / "unsigned"))
    make_one_file_checkpoint(folder)
    make_siglips(folder)
    run("tune", photos, "--model", model, "--output", folder / "run", *SHORT)
    run("evaluate", folder / "run", photos)
    run("predict", folder / "run", photos / "cat" / "0.png")
    make_added(folder)
    make_unfinished(folder)
    run("compare", photos, "--model", model, "--output", folder / "comparison", *COMPARED)
    make_datasets(folder, photos)
    make_images(folder / "images")
    make_sorted(folder, photos)


def make_added(folder: Path) -> None:
    """Make images to add, and a run to which others were added."""
    photos = make_photos(folder / "more", count=2, seed=1)
    for path in photos.glob("*/1.png"):
        first = folder / "first" / path.parent.name / "1.png"
        first.parent.mkdir(parents=True)
        path.rename(first)
    added = Path(shutil.copytree(folder / "run", folder / "added"))
    run("add", added, folder / "first", "--class", "fox", "--model", folder / "model")


def make_sorted(folder: Path, photos: Path) -> None:
    """Make a plan file, a folder that was sorted by it with its journal, and images with sidecars."""
    paths = sorted(photos.glob("*/*.png"))
    labels = [{"path": path.relative_to(photos).as_posix(), "label": path.parent.name} for path in paths]
    (folder / "plans").mkdir()
    plan = folder / "plans" / "plan.json"
    plan.write_text(json.dumps({"format": "sharpzo-mlx plan 1", "folder": str(photos), "labels": labels}))
    run("sort", "--plan", plan, "--into", folder / "sorted", "--apply")
    tagged = Path(shutil.copytree(photos / "cat", folder / "tagged"))
    run("sort", folder / "run", tagged, "--tag", "--apply")
    shutil.rmtree(tagged / ".sharpzo-sort")


def make_photos(folder: Path, count: int = 6, seed: int = 0) -> Path:
    """Make three classes that differ by their colour."""
    rng = np.random.default_rng(seed)
    for label, colour in COLOURS.items():
        (folder / label).mkdir(parents=True)
        for number in range(count):
            noise = rng.integers(-40, 40, (12, 16, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return folder


def make_checkpoints(folder: Path) -> None:
    """Make a checkpoint in each layout that `convert` reads: Hugging Face's, sharded, pickled, npz and open_clip's."""
    import mlx.core as mx

    from sharpzo_mlx.clip.safetensors_file import read_tensors

    whole = write_checkpoint(folder / "hf")
    special = {"bos_token": {"content": "<|startoftext|>", "lstrip": False}, "eos_token": "<|endoftext|>"}
    (whole / "special_tokens_map.json").write_text(json.dumps(special))
    (whole / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 77, "pad_token": None}))
    arrays = read_tensors(whole / "model.safetensors")
    names = sorted(arrays)
    sharded = _without_weights(whole, folder / "sharded")
    places: dict[str, str] = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        shard = f"model-{number:05}-of-00002.safetensors"
        mx.save_safetensors(str(sharded / shard), {key: mx.array(arrays[key]) for key in part}, {"format": "pt"})
        places |= dict.fromkeys(part, shard)
    index = {"metadata": {"total_size": sum(array.nbytes for array in arrays.values())}, "weight_map": places}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    pickled = _without_weights(whole, folder / "pickled")
    zip_file(pickled / "pytorch_model.bin", *_torch_program({key: np.asarray(arrays[key]) for key in names}))
    np.savez(_without_weights(whole, folder / "npz") / "weights.npz", **arrays)  # type: ignore[arg-type]


def _torch_program(arrays: dict[str, np.ndarray]) -> tuple[bytes, dict[str, bytes]]:
    """Return a pickle of a state dict, and its storages."""
    parts, storages = [], {}
    for number, (key, array) in enumerate(arrays.items()):
        strides = tuple(int(stride // array.itemsize) for stride in array.copy("C").strides)
        parts.append(text(key) + tensor(storage(str(number), array.size), array.shape, strides))
        storages[str(number)] = array.astype("<f4").tobytes()
    return b"\x80\x02}(" + b"".join(parts) + b"u.", storages


def _without_weights(whole: Path, folder: Path) -> Path:
    return Path(shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("*.safetensors")))


def make_one_file_checkpoint(folder: Path) -> None:
    """Make Hugging Face's layout with a tokenizer.json, and open_clip's layout."""
    one = Path(shutil.copytree(folder / "hf", folder / "one-file", ignore=shutil.ignore_patterns("vocab*", "merges*")))
    shutil.copy(folder / "model" / "tokenizer.json", one / "tokenizer.json")
    clip = Path(shutil.copytree(one, folder / "open-clip", ignore=shutil.ignore_patterns("config.json", "prepro*")))
    size = {"width": 16, "layers": 2}
    config = {
        "model_cfg": {
            "embed_dim": 8, "quick_gelu": True,
            "vision_cfg": size | {"image_size": 8, "patch_size": 4, "head_width": 8, "mlp_ratio": 2.0},
            "text_cfg": size | {"context_length": 77, "vocab_size": 57, "heads": 2, "mlp_ratio": 2.0},
        },
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "shortest"},
    }  # fmt: skip
    (clip / "open_clip_config.json").write_text(json.dumps(config))
    (clip / "model.safetensors").rename(clip / "open_clip_model.safetensors")


def make_siglips(folder: Path) -> None:
    """Make a SigLIP with each of the tokenizers' files: SigLIP 2's pairs, SentencePiece's, and our unigram pieces."""
    pairs = write_siglip(folder / "siglip-pairs")
    pieces = Path(shutil.copytree(pairs, folder / "siglip-pieces", ignore=shutil.ignore_patterns("tokenizer.json")))
    shutil.copy(GOLDEN / "siglip_spiece.model", pieces / "spiece.model")
    run("convert", pieces, "--output", folder / "siglip-model")


def make_unfinished(folder: Path) -> None:
    """Make a run that was stopped after its tenth step, with both checkpoints."""
    import sharpzo_mlx as sz
    from sharpzo_mlx.tuning import checkpointing
    from sharpzo_mlx.tuning.pipeline import tune_steps
    from sharpzo_mlx.tuning.search import TuneStep

    checkpointing.CHECKPOINT_SECONDS = 0
    settings = {"head": "none", "shots": 4, "generations": 3, "steps": 12, **TINY}
    events = tune_steps(
        sz.load(folder / "model"),
        folder / "photos",
        sz.TuneConfig().with_settings(settings),
        output=folder / "unfinished",
    )
    steps = (event for event in events if isinstance(event, TuneStep))
    for _ in range(10):
        next(steps)
    events.close()  # type: ignore[attr-defined]


def make_datasets(folder: Path, photos: Path) -> None:
    """Make data sets that a file describes: a split file, class names, lists, FGVC-Aircraft's lists."""
    data = Path(shutil.copytree(photos, folder / "data"))
    labels = list(COLOURS)
    entries = [[f"{label}/{number}.png", place, label] for place, label in enumerate(labels) for number in range(6)]
    splits = {"train": entries[::2], "val": entries[1::4], "test": entries[3::4]}
    (data / "split_zhou_photos.json").write_text(json.dumps(splits))
    lists = Path(shutil.copytree(photos, folder / "lists"))
    (lists / "classnames.txt").write_text("cat a cat\ndog a dog\nbarn owl an owl\n")
    (lists.parent / "texts").mkdir()
    (lists.parent / "texts" / "map.json").write_text(json.dumps({"barn owl": "barn owl", "cat": ["cat"], "dog": None}))
    (lists.parent / "texts" / "map.txt").write_text("barn_owl barn owl\ncat cat; dog\ndog dog\n")
    (lists.parent / "texts" / "templates.txt").write_text("a photo of a {}.\na {}\n# no\n\nthe {} there\n")
    planes = folder / "aircraft"
    (planes / "images").mkdir(parents=True)
    rows = {"train": [], "val": [], "test": []}  # type: dict[str, list[str]]
    for number, path in enumerate(sorted(photos.glob("*/*.png"))):
        Image.open(path).save(planes / "images" / f"{number:07}.jpg")
        rows[("train", "val", "test")[number % 3]].append(f"{number:07} {path.parent.name}")
    for split, lines in rows.items():
        (planes / f"images_variant_{split}.txt").write_text("\n".join(lines) + "\n")
    (planes / "variants.txt").write_text("\n".join(sorted(labels)) + "\n")


def make_images(folder: Path) -> None:
    """Make an image in each format and kind of pixels that is read."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    plain = Image.fromarray(rng.integers(0, 255, (24, 32, 3)).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    plain.save(folder / "plain.jpg", exif=exif)
    plain.save(folder / "progressive.jpg", progressive=True, quality=50)
    plain.convert("CMYK").save(folder / "cmyk.jpg")
    plain.save(folder / "plain.png")
    plain.quantize(16).save(folder / "palette.png", transparency=0)
    Image.fromarray(rng.integers(0, 65535, (24, 32)).astype(np.uint16)).save(folder / "deep.png")
    plain.convert("RGBA").save(folder / "alpha.png")
    plain.save(folder / "lossy.webp")
    plain.convert("RGBA").save(folder / "moving.webp", save_all=True, append_images=[plain.convert("RGBA").rotate(90)])
    plain.save(folder / "plain.gif")
    plain.convert("P").save(folder / "moving.gif", save_all=True, append_images=[plain.rotate(90).convert("P")])
    plain.save(folder / "plain.tif")
    plain.save(folder / "packed.tif", compression="tiff_lzw")
    Image.fromarray(rng.random((24, 32)).astype(np.float32)).save(folder / "float.tif")
    plain.save(folder / "plain.bmp")
    import pillow_heif

    pillow_heif.register_heif_opener()
    plain.save(folder / "plain.heic")
    plain.save(folder / "plain.avif")
