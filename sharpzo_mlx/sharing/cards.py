"""Write the cards of what is sent: front matter that the hub reads, then a few sentences, figures and commands.

Names of classes come from folders and are shown as code, in which nothing has a meaning. Nothing of this machine is in
a card.

>>> print(write_model_card("ann/m", Origin("o/clip", "o/clip", "mit"), "float32", quantised=False).splitlines()[1])
license: mit
"""

from __future__ import annotations

from collections.abc import Iterable

from sharpzo_mlx.convert import mobileclip
from sharpzo_mlx.convert.card import code
from sharpzo_mlx.errors import one_line
from sharpzo_mlx.report.formatting import percent, points
from sharpzo_mlx.report.head_words import describe_head, describe_words
from sharpzo_mlx.runs.run import Run
from sharpzo_mlx.sharing.licences import APPLE_NOTICE
from sharpzo_mlx.sharing.origin import Origin

MOST_CLASSES = 200  # that a card lists
INSTALL = "    pip install sharpzo-mlx"


def write_model_card(repository: str, origin: Origin, dtype: str, *, quantised: bool) -> str:
    """Return the card of a model.

    Args:
        repository: `owner/name` that it is sent to.
        origin: what it was made of.
        dtype: the type of its weights.
        quantised: whether matrices of it are quantised.
    """
    relation = "quantized" if quantised else None
    front = _front(origin, "zero-shot-image-classification", relation)
    made = f" Made from {code(origin.base)}." if origin.base else ""
    changed = " Some of its matrices are quantised." if quantised else ""
    return _join(
        front,
        f"# {repository.partition('/')[2]}",
        f"A CLIP for MLX, in the layout of sharpzo-mlx: both towers, tokenizer and image preprocessing.{made} "
        f"The weights are {dtype}.{changed}",
        "## How to use",
        _block(INSTALL, f"    sharpzo-mlx convert {repository}", f"    sharpzo-mlx tune DATASET --model {repository}"),
        "```python\nimport sharpzo_mlx as sz\n\n"
        f'clip = sz.load("{repository}")  # once it was converted\nclip.encode_images(["image.jpg"])\n```',
        _terms(origin),
    )


def write_run_card(repository: str, origin: Origin, run: Run) -> str:
    """Return the card of a run.

    Args:
        repository: `owner/name` that it is sent to.
        origin: what its model was made of.
        run: the finished run.
    """
    front = _front(origin, "image-classification", "adapter", "few-shot")
    model = code(origin.base) if origin.base else "a model that is not on the hub"
    shots = f"at most {run.record.shots} training images a class"
    return _join(
        front,
        f"# {repository.partition('/')[2]}",
        f"A classifier of images for {len(run.record.class_names)} classes, tuned on {model} with {shots} by forward "
        "passes only. It needs that model beside it.",
        "## Results",
        _table(run),
        _describe_parts(run),
        "Measured by `sharpzo-mlx tune` on images that are not here. On images of another look they can be lower.",
        "## How to use",
        _block(INSTALL, *_commands(repository, origin)),
        f'```python\nimport sharpzo_mlx as sz\n\nrun = sz.load_run("{repository}")\nsz.predict(run, "image.jpg")\n```',
        "## Classes",
        _list_classes(run.record.class_names),
        "## Files",
        "`run.json` has the settings and results, `prompt.safetensors` the classifier as arrays. No image is here, nor "
        "the name of one.",
        _terms(origin),
    )


def _front(origin: Origin, task: str, relation: str | None, *more: str) -> str:
    tags = ", ".join(["clip", "mlx", "sharpzo-mlx", *more])
    lines = [f"license: {origin.licence}"] if origin.licence else []
    lines += [
        "library_name: mlx",
        f"pipeline_tag: {task}",
        f"tags: [{tags}]",
    ]
    if origin.base:
        lines += [f"base_model: {origin.base}"] + ([f"base_model_relation: {relation}"] if relation else [])
    return "\n".join(["---", *lines, "---"])


def _join(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part) + "\n"


def _block(*lines: str) -> str:
    return "\n".join(lines)


def _commands(repository: str, origin: Origin) -> list[str]:
    if origin.source is None:
        return [f"    sharpzo-mlx predict {repository} image.jpg --model MODEL_FOLDER"]
    return [
        f"    sharpzo-mlx convert {origin.source}    # once",
        f"    sharpzo-mlx predict {repository} image.jpg",
    ]


def _table(run: Run) -> str:
    results = run.results
    rows = [(results.chosen_on, results.zero_shot_val, results.val)] if run.leaves_out else []
    rows += [("test", results.zero_shot, results.test)] if results.test is not None else []
    lines = ["| images | zero-shot | tuned | change |", "|---|---|---|---|"]
    return "\n".join(
        [*lines, *(f"| {name} | {percent(old)} | {percent(new)} | {points(old, new)} |" for name, old, new in rows)]
    )


def _describe_parts(run: Run) -> str:
    head = run.results.head
    return "" if head is None else f"Head: {describe_head(head)}. Words: {describe_words(head)}."


def _list_classes(names: Iterable[str]) -> str:
    shown = [code(one_line(name, 200)) for name in names]
    more = f", and {len(shown) - MOST_CLASSES} more" if len(shown) > MOST_CLASSES else ""
    return ", ".join(shown[:MOST_CLASSES]) + more + "."


def _terms(origin: Origin) -> str:
    if origin.licence == mobileclip.LICENCE:
        return _join("## Licence", APPLE_NOTICE, f"{mobileclip.TERMS}. The weights were converted for MLX.").rstrip(
            "\n"
        )
    if origin.licence is None:
        return "## Licence\n\nThat of the model it was tuned on; ask its source."
    return f"## Licence\n\n`{origin.licence}`, that of the model it was made from."
