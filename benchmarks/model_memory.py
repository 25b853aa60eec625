"""Measure the peak memory of every command for networks of published sizes, from conversion to prediction.

The checkpoints have random weights: open_clip writes them in its own form (`--python` is an interpreter that has it),
and a SigLIP gets a vocabulary of 256 000 made-up words. Each command runs in a process of its own on a few drawn
images: `convert`, `tune` with two images a class and few queries, `evaluate` and `predict`. The figure is the peak of
resident memory, as `/usr/bin/time -v` shows it, in MB. The images are few because no peak depends on their number.

usage: python benchmarks/model_memory.py [--models ViT-B-16-SigLIP2 MobileCLIP2-S2] [--bits 8] [--output FILE.json]
"""

from __future__ import annotations

import argparse
import itertools
import json
import string
import subprocess
import sys
import tempfile
from pathlib import Path

from evaluate_memory import draw_images, run

MODELS = ("ViT-B-16-SigLIP2", "MobileCLIP2-S0", "MobileCLIP2-S2")
BUDGET = ("--no-report", "--shots=2", "--views=2", "--query-budget=40")
IMAGES = 60  # of ten classes
WORDS = 256_000  # of SigLIP 2's vocabulary
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>")
COMMANDS = ("convert", "tune", "evaluate", "predict")


def write_checkpoint(name: str, folder: Path) -> None:
    """Write a network of open_clip's with random weights, as its repositories on the hub have it."""
    import open_clip
    from safetensors.torch import save_file

    model = open_clip.create_model(name)
    save_file(model.state_dict(), str(folder / "open_clip_model.safetensors"))
    sizes = open_clip.get_model_config(name)
    prepared = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    described = {"model_cfg": sizes, "preprocess_cfg": prepared}
    (folder / "open_clip_config.json").write_text(json.dumps(described))
    if "SigLIP" in name:
        (folder / "tokenizer.json").write_text(json.dumps(make_up_words()))


def make_up_words() -> dict[str, object]:
    """Return a `tokenizer.json` of SigLIP 2's kind with as many words as the real one, each a merge of two shorter."""
    names = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), "\N{LOWER ONE EIGHTH BLOCK}"]
    letters = string.ascii_lowercase
    words = ("".join(parts) for length in range(1, 6) for parts in itertools.product(letters, repeat=length))
    names += itertools.islice(words, WORDS - len(names))
    merges = [[word[:-1], word[-1]] for word in names[len(SPECIAL) + 257 + len(letters) :]]
    return {
        "version": "1.0",
        "added_tokens": [{"id": number, "content": name, "special": True} for number, name in enumerate(SPECIAL)],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\N{LOWER ONE EIGHTH BLOCK}"},
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": {name: number for number, name in enumerate(names)},
            "merges": merges,
        },
    }


def measure(source: Path, scratch: Path, bits: int | None) -> dict[str, float]:
    """Return the peak of each command in MB, and the size of the converted weights."""
    model, tuned, photos = scratch / "m", scratch / "run", scratch / "photos"
    quantise = [f"--quantize={bits}"] if bits else []
    words: dict[str, list[str | Path]] = {
        "convert": [source, "--output", model, *quantise],
        "tune": [photos, "--model", model, "--output", tuned, *BUDGET],
        "evaluate": [tuned, photos],
        "predict": [tuned, photos, "--recursive"],
    }
    peaks = {name: run([name, *words[name]], scratch / f"cache-{name}")["peak"] / 1e6 for name in COMMANDS}
    return {"weights": (model / "model.safetensors").stat().st_size / 1e6, **peaks}


def main() -> None:
    """Print a table: a row for each network, as it is and quantised."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, help="names of open_clip's")
    parser.add_argument("--bits", type=int, default=8, help="of the quantised rows")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has open_clip")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.write:
        write_checkpoint(given.models[0], given.write)
        return
    rows = []
    print(f"| model | quantised | weights, MB | {' | '.join(COMMANDS)} |\n|{7 * '---|'}", flush=True)
    for name in given.models:
        with tempfile.TemporaryDirectory() as source:
            command = [given.python, __file__, "--models", name, "--write", source]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            for bits in (None, given.bits):
                with tempfile.TemporaryDirectory() as folder:
                    draw_images(Path(folder) / "photos", IMAGES)
                    row = measure(Path(source), Path(folder), bits)
                cells = " | ".join(f"{figure:.0f}" for figure in row.values())
                print(f"| {name} | {bits or '-'} | {cells} |", flush=True)
                rows.append({"model": name, "bits": bits, **row})
    if given.output:
        given.output.write_text(json.dumps(rows, indent=4) + "\n")


if __name__ == "__main__":
    main()
