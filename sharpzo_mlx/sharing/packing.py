"""Pack a run or a model into a parcel: what may be public of it, and its card.

Of a run that is the prompt and a run.json without paths, names of images, or the digest of their content. Of a model it
is the folder's own files. Nothing else that lies beside them is sent.

>>> pack("runs/pets", "ann/pets").items  # doctest: +SKIP
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from sharpzo_mlx.clip import handle
from sharpzo_mlx.clip.checkpoint import CONFIG, TOKENIZER, WEIGHTS
from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.clip.safetensors_file import read_header
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.runs.model import open_model
from sharpzo_mlx.runs.prompt_file import write_prompt
from sharpzo_mlx.runs.record import UNSAID, ModelRecord, RunRecord
from sharpzo_mlx.runs.run import PROMPT, RECORD, Run
from sharpzo_mlx.sharing import licences
from sharpzo_mlx.sharing.cards import write_model_card, write_run_card
from sharpzo_mlx.sharing.origin import Origin, find_origin
from sharpzo_mlx.sharing.parcel import CARD, LICENCE_FILE, Item, Parcel, check_repository
from sharpzo_mlx.sharing.privacy import check_items

TEMPLATES = ("imagenet", "small")  # names of the setting `templates` that are no files
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class Told:
    """What the user says of the model.

    Attributes:
        base: its name on the hub.
        licence: the hub's name of its licence.
        licence_file: a file with the licence's text, which is sent along.
    """

    base: str | None = None
    licence: str | None = None
    licence_file: Path | None = None


def pack(source: str | Path, repository: str, *, model: str | Path | None = None, told: Told | None = None) -> Parcel:
    """Make a parcel of a run or a model.

    Args:
        source: a run's folder, or a model's folder or name.
        repository: `owner/name` on the hub that it is for.
        model: a run's model, if it has moved since tuning.
        told: what the user says of the model.

    Raises:
        UserError: there is neither a run nor a model, it is damaged or not finished, its licence does not let it be
            passed on, or a file of it names a folder of this machine.
    """
    check_repository(repository)
    told = told or Told()
    text = licences.read_licence_text(told.licence_file)
    if Run.exists(Path(source)):
        return _pack_run(Run.load(source), repository, None if model is None else handle.load(model), told, text)
    if model is not None:
        raise UserError(f"{source}: no run here; --model is for runs")
    return _pack_model(handle.load(source), repository, told, text)


def _pack_run(run: Run, repository: str, clip: Clip | None, told: Told, text: str | None) -> Parcel:
    if not run.finished:
        raise UserError(f"{run.folder}: not finished; continue it with `tune --resume`")
    clip = open_model(run, clip)
    origin = _find(clip, told)
    origin = replace(origin, licence=licences.check(str(run.folder), origin.licence, text, kind="run"))
    items = (
        Item(CARD, write_run_card(repository, origin, run).encode()),
        Item(RECORD, publish(run, origin).to_text().encode()),
        Item(PROMPT, _prompt_bytes(run)),
        *_licence_item(text),
    )
    check_items(items, run.record.dataset, run.record.model.folder, str(run.folder.resolve()))
    return Parcel(repository, "run", items, origin.base, origin.licence, run.record.class_names)


def _pack_model(clip: Clip, repository: str, told: Told, text: str | None) -> Parcel:
    _ = clip.fingerprint  # damaged weights are refused
    origin = _find(clip, told)
    origin = replace(origin, licence=licences.check(str(clip.folder), origin.licence, text, kind="model"))
    quantised = clip.config.quantization is not None
    card = write_model_card(repository, origin, _dtype(clip.folder / WEIGHTS), quantised=quantised)
    files = (Item(name, clip.folder / name) for name in (CONFIG, WEIGHTS, TOKENIZER))
    items = (Item(CARD, card.encode()), *files, *_licence_item(text))
    _check_present(items)
    check_items(items, str(clip.folder.resolve()))
    return Parcel(repository, "model", items, origin.base, origin.licence)


def _find(clip: Clip, told: Told) -> Origin:
    found = find_origin(clip.folder, clip.config).with_base(told.base)
    return replace(found, licence=licences.choose(found.licence, told.licence))


def publish(run: Run, origin: Origin) -> Run:
    """Return a run without what is private: where things are, and the names and content of images."""
    record = run.record
    model = ModelRecord("", record.model.fingerprint, origin.source)
    templates = run.config.templates if run.config.templates in TEMPLATES else None
    public = RunRecord(  # field by field, so that a new one is not sent until it stands here
        status=record.status,
        model=model,
        dataset=UNSAID,
        shots=record.shots,
        class_names=record.class_names,
        class_folders=record.class_folders,
        images=record.images.without_names(),
        versions=record.versions,
        zero_shot_val=record.zero_shot_val,
        templates=record.templates,
    )
    return replace(run, config=run.config.with_settings({"templates": templates}), record=public)


def _prompt_bytes(run: Run) -> bytes:
    """Return the prompt's file as written anew, so that it holds what a prompt has and nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / PROMPT
        write_prompt(path, run.prompt)
        return path.read_bytes()


def _licence_item(text: str | None) -> tuple[Item, ...]:
    return () if text is None else (Item(LICENCE_FILE, text.encode()),)


def _check_present(items: tuple[Item, ...]) -> None:
    for item in items:
        if isinstance(item.content, Path) and not item.content.is_file():
            raise UserError(f"{item.content}: missing; convert the model again")


def _dtype(weights: Path) -> str:
    kinds = {DTYPES[kind] for kind in read_header(weights).dtypes.values() if kind in DTYPES}
    return " and ".join(sorted(kinds))
