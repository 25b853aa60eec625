"""What is fuzzed: for each kind of file where it lies, how it is changed, and the commands that read it.

In the words of commands `{in}` is the copy of the base that holds the changed file, `{out}` an empty folder, `{file}`
the changed file, `{run}` a copy of a whole run and `{bases}` the folder of whole bases.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bases import COMPARED, LONG, SHORT
from mutations import mutate_json, mutate_lines, mutate_safetensors
from other_mutations import mutate_archive, mutate_database, mutate_image, mutate_text

Mutator = Callable[[bytes, random.Random], bytes]
MUTATORS: dict[str, Mutator] = {  # by a file's ending; every other is an image
    ".json": mutate_json, ".jsonl": mutate_lines, ".safetensors": mutate_safetensors, ".txt": mutate_text,
    ".toml": mutate_text, ".xmp": mutate_text, ".bin": mutate_archive, ".npz": mutate_archive,
    ".sqlite": mutate_database,
}  # fmt: skip

Line = tuple[str, ...]

CONVERT: Line = ("convert", "{in}", "--output", "{out}/o")
QUANTISE: Line = ("convert", "{in}", "--output", "{out}/o", "--dtype", "float16")
PHOTOS = "{bases}/photos"
USE_MODEL: Line = ("tune", PHOTOS, "--model", "{in}", "--output", "{out}/r", *SHORT)
USE_RESULT: Line = ("tune", PHOTOS, "--model", "{out}/o", "--output", "{out}/r", *SHORT)
PREDICT: Line = ("predict", "{in}", "{bases}/photos/cat/0.png", "--top", "3")
EVALUATE: Line = ("evaluate", "{in}", PHOTOS)
REPORT: Line = ("report", "{in}", "--no-landscape")
RESUME: Line = ("tune", PHOTOS, "--output", "{in}", "--resume", "--no-report", "--model", "{bases}/model")
GO_ON: Line = ("tune", PHOTOS, "--model", "{bases}/model", "--output", "{in}", "--resume", *LONG)
TUNE_DATA: Line = ("tune", "{in}", "--model", "{bases}/model", "--output", "{out}/r", *SHORT)
EVALUATE_DATA: Line = ("evaluate", "{run}", "{in}")
COMPARE: Line = ("compare", PHOTOS, "--model", "{bases}/model", "--output", "{in}", *COMPARED)
MAP: Line = ("evaluate", "{run}", PHOTOS, "--mapping", "{file}")
TEMPLATES: Line = ("tune", PHOTOS, "--model", "{bases}/model", "--output", "{out}/r", "--templates", "{file}", *SHORT)
SORT: Line = ("sort", "--plan", "{file}", "--into", "{out}/s", "--apply")
UNDO: Line = ("sort", "--undo", "{file}")
TAG: Line = ("sort", "{run}", "{in}", "--tag", "--apply")
LABEL: Line = ("predict", "{run}", "{file}", "{bases}/photos/cat/0.png")
ADD: Line = ("add", "{in}", "{bases}/more", "--model", "{bases}/model")
LIST: Line = ("add", "{in}", "--list")
BACK: Line = ("add", "{in}", "--back", "1")
FORWARD: Line = ("add", "{in}", "--back", "2")
SETTINGS: Line = ("tune", PHOTOS, "--model", "{bases}/model", "--output", "{out}/r", "--config", "{file}", *SHORT)


@dataclass(frozen=True)
class Subject:
    """A kind of file.

    Attributes:
        kind: the row of the table.
        base: the folder under the bases that is copied.
        files: patterns of the files in it, one of which is changed.
        ways: of which one is chosen; each is one or more command lines, run until one fails.
        writes: folders that the commands may write to, beside the cache.
    """

    kind: str
    base: str
    files: tuple[str, ...]
    ways: tuple[tuple[Line, ...], ...]
    writes: tuple[str, ...] = ("{out}",)

    def mutate(self, path: Path, rng: random.Random) -> bytes:
        """Return a damaged form of a file's content."""
        return MUTATORS.get(path.suffix, mutate_image)(path.read_bytes(), rng)

    def find(self, folder: Path) -> list[Path]:
        """Return the files of a copy that may be changed."""
        return sorted({path for pattern in self.files for path in folder.glob(pattern) if path.is_file()})


CHECKPOINT = ((CONVERT, USE_RESULT), (QUANTISE,))
RUN_WAYS = ((PREDICT,), (EVALUATE,), (REPORT,), (RESUME,))
SUBJECTS = (
    Subject("checkpoint: config.json", "hf", ("config.json",), CHECKPOINT),
    Subject("checkpoint: preprocessor_config.json", "hf", ("preprocessor_config.json",), CHECKPOINT),
    Subject("checkpoint: open_clip_config.json", "open-clip", ("open_clip_config.json",), CHECKPOINT),
    Subject("checkpoint: vocab.json, merges.txt", "hf", ("vocab.json", "merges.txt"), CHECKPOINT),
    Subject("checkpoint: tokenizer.json", "one-file", ("tokenizer.json",), CHECKPOINT),
    Subject("checkpoint: tokenizer.json of SigLIP 2", "siglip-pairs", ("tokenizer.json",), CHECKPOINT),
    Subject("checkpoint: spiece.model", "siglip-pieces", ("spiece.model",), CHECKPOINT),
    Subject("checkpoint: special tokens, tokenizer_config", "one-file",
            ("special_tokens_map.json", "tokenizer_config.json"), CHECKPOINT),
    Subject("checkpoint: model.safetensors", "hf", ("model.safetensors",), CHECKPOINT),
    Subject("checkpoint: shards and their index", "sharded", ("*.index.json", "*.index.json", "*.safetensors"),
            CHECKPOINT),
    Subject("checkpoint: pickles in zips", "pickled", ("pytorch_model.bin",), CHECKPOINT),
    Subject("checkpoint: npz", "npz", ("weights.npz",), CHECKPOINT),
    Subject("model: config.json", "unsigned", ("config.json",), ((USE_MODEL,), (CONVERT,))),
    Subject("model: tokenizer.json", "model", ("tokenizer.json",), ((USE_MODEL,), (CONVERT,))),
    Subject("model: tokenizer.json of SigLIP", "siglip-model", ("tokenizer.json",), ((USE_MODEL,), (CONVERT,))),
    Subject("model: model.safetensors", "unsigned", ("model.safetensors",), ((USE_MODEL,), (CONVERT,))),
    Subject("model: model.safetensors with a fingerprint", "model", ("model.safetensors",), ((USE_MODEL,),)),
    Subject("run: run.json", "run", ("run.json",), RUN_WAYS, ("{in}",)),
    Subject("run: prompt.safetensors", "run", ("prompt.safetensors",), RUN_WAYS, ("{in}",)),
    Subject("run: steps.jsonl", "run", ("steps.jsonl",), ((REPORT,), (RESUME,)), ("{in}",)),
    Subject("run: evaluations.json", "run", ("evaluations.json",), ((REPORT,), (EVALUATE,)), ("{in}",)),
    Subject("run: config.toml", "run", ("config.toml",), ((SETTINGS,), (RESUME,)), ("{in}", "{out}")),
    Subject("run: labelled.safetensors", "run", ("labelled.safetensors",), ((ADD,),), ("{in}",)),
    Subject("run: versions in its history", "added", ("run.json", "history/*/*"),
            ((LIST,), (BACK, FORWARD, PREDICT), (ADD,), (EVALUATE,)), ("{in}",)),
    Subject("unfinished run: checkpoint.safetensors", "unfinished", ("checkpoint.safetensors",),
            ((GO_ON,),), ("{in}",)),
    Subject("unfinished run: the other files", "unfinished", ("run.json", "prompt.safetensors", "steps.jsonl"),
            ((GO_ON,), (PREDICT,), (REPORT,)), ("{in}",)),
    Subject("comparison: cells and comparison.json", "comparison", ("**/*.json",), ((COMPARE,),), ("{in}",)),
    Subject("data: split_zhou JSON", "data", ("*.json",), ((TUNE_DATA,), (EVALUATE_DATA,))),
    Subject("data: classnames.txt", "lists", ("classnames.txt",), ((TUNE_DATA,), (EVALUATE_DATA,))),
    Subject("data: lists of paths (FGVC-Aircraft)", "aircraft", ("*.txt",), ((TUNE_DATA,),)),
    Subject("data: mapping", "texts", ("map.json", "map.txt"), ((MAP,),)),
    Subject("data: templates", "texts", ("templates.txt",), ((TEMPLATES,),)),
    Subject("sorting: plan file", "plans", ("plan.json",), ((SORT,),)),
    Subject("sorting: journal", "sorted", (".sharpzo-sort/*.jsonl",), ((UNDO,),), ("{in}",)),
    Subject("sorting: XMP sidecars", "tagged", ("*.xmp",), ((TAG,),), ("{in}",)),
    Subject("cache: features", "cache", ("features/*.sqlite",), ((("evaluate", "{run}", PHOTOS, "--csv"),),),
            ("{in}",)),
    *(Subject(f"image: {name}", "images", patterns, ((LABEL,),)) for name, patterns in {
        "JPEG": ("*.jpg",), "PNG": ("*.png",), "WebP": ("*.webp",), "GIF": ("*.gif",), "TIFF": ("*.tif",),
        "BMP": ("*.bmp",), "HEIC": ("*.heic",), "AVIF": ("*.avif",)}.items()),
    Subject("image in a data set", "photos", ("*/*.png",), ((TUNE_DATA,), (EVALUATE_DATA,))),
)  # fmt: skip
