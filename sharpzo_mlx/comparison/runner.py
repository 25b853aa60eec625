"""Compare methods: the same splits, features and query budget for all, one result for each dataset, seed and method.

For each seed the split is drawn as `tune` draws it and encoded once. Every method gets the training and validation
images and the query budget; what it returns is measured on the test split, and on shifted folders, when it has ended.
Each result is a file of its own, so a comparison that was interrupted continues where it stopped. At the end the
comparison's folder holds `comparison.json`, `comparison.md` and the curves.

>>> comparison = compare(clip, ["photos/"], methods="sharpzo,bbt", seeds=3)  # doctest: +SKIP
>>> [(row.title, row.test.mean) for row in comparison.datasets[0].rows]  # doctest: +SKIP
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.comparison.dataset_runner import DatasetRunner, Finished, Working
from sharpzo_mlx.comparison.methods import registry
from sharpzo_mlx.comparison.record import Comparison, DatasetResult
from sharpzo_mlx.comparison.results import ResultStore, holds_results
from sharpzo_mlx.comparison.sources import DatasetSource, name_folders
from sharpzo_mlx.comparison.table_text import as_markdown
from sharpzo_mlx.comparison.variants import TUNED, check_budgets, choose_variants
from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.datasets.templates import PLAIN
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.files import atomic_write, check_place, expand, refuse_empty
from sharpzo_mlx.prompts.tokens import tokenise_prompts
from sharpzo_mlx.runs.resume import with_template
from sharpzo_mlx.runtime.helpers import helped_at
from sharpzo_mlx.tuning.encoding import Encoding
from sharpzo_mlx.tuning.pipeline import check_arguments

COMPARISONS = Path("comparisons")
RECORD, PAGE = "comparison.json", "comparison.md"
SEEDS, QUERIES = 5, 5000
LONGEST_NAME = 200  # bytes of a folder's name that is made here; file systems take 255, some less

Event: TypeAlias = Encoding | Working | Finished | Comparison


def compare(
    clip: Clip,
    datasets: str | Path | Sequence[str | Path],
    config: TuneConfig | None = None,
    *,
    cluster: str | None = None,
    **options: Any,
) -> Comparison:
    """Run methods on the same splits with the same query budget, and write tables and curves.

    Args:
        clip: the checkpoint.
        datasets: folders as `tune` takes them.
        config: the configuration that the methods share; see `compare_steps`.
        cluster: workers that help: `local:N` or an address, as `open_cluster` takes it; None for no others.
        options: the other options of `compare_steps`.

    Returns:
        The comparison, with a table for each dataset.
    """
    with helped_at(cluster):
        for event in compare_steps(clip, datasets, config, **options):
            if isinstance(event, Comparison):
                return event
    raise AssertionError("compare_steps ends with the comparison")


def compare_steps(
    clip: Clip,
    datasets: str | Path | Sequence[str | Path],
    config: TuneConfig | None = None,
    *,
    methods: str = registry.ALL,
    seeds: int = SEEDS,
    variants: Sequence[str] = (TUNED,),
    shift: Sequence[str | Path] = (),
    output: str | Path | None = None,
) -> Iterator[Event]:
    """Do what `compare` does, a record at a time.

    Args:
        clip: the checkpoint.
        datasets: folders as `tune` takes them.
        config: shots, query budget, template and what else the methods share; its seed is not used.
        methods: names and groups with commas between; zero-shot is always added.
        seeds: how many, from 0.
        variants: which of a method's options: some of "tuned", "published" and "trials".
        shift: folders with the datasets' classes, where every result is measured as well.
        output: the folder; None: `comparisons/<datasets>-<model>`. Results in it are not computed again.

    Yields:
        Encoding, Working, a Finished for each result, and the Comparison.

    Raises:
        UserError: what the user gave cannot be used. The failure of a method is part of its result.
    """
    check_arguments(clip, config)
    datasets = [datasets] if isinstance(datasets, (str, Path)) else datasets
    refuse_empty(*datasets, *shift)
    if seeds < 1 or not datasets:
        raise UserError(f"seeds {seeds}: at least 1" if seeds < 1 else "no data set: name at least one folder")
    chosen = choose_variants(methods, variants)
    config = _with_budget(config or TuneConfig())
    sources = _find_sources(clip, datasets, shift, config)
    check_budgets(chosen, config)
    folder = expand(output) if output else _default_folder(sources, clip)
    _check_folder(folder)
    total = len(sources) * seeds * len(chosen)
    results: list[DatasetResult] = []
    for source in sources:
        runner = DatasetRunner(clip, source, ResultStore(folder), chosen)
        done = len(results) * seeds * len(chosen)
        results.append((yield from runner.steps(seeds, done=done, total=total)))
    comparison = Comparison(folder, config, tuple(results))
    write_comparison(comparison)
    yield comparison


def write_comparison(comparison: Comparison) -> None:
    """Write `comparison.json`, `comparison.md` and the curves into the comparison's folder."""
    from sharpzo_mlx.comparison.plots import write_curves  # loads matplotlib, which only the end needs

    text = json.dumps(comparison.to_json(), indent=1, allow_nan=False)
    atomic_write(comparison.folder / RECORD, text + "\n")
    atomic_write(comparison.folder / PAGE, as_markdown(comparison))
    write_curves(comparison)


def _with_budget(config: TuneConfig) -> TuneConfig:
    """Return the configuration with a query budget and no head, which some methods add; refuse what cannot be compared.

    Raises:
        UserError: a time budget, or several templates.
    """
    if config.time_budget:
        raise UserError("time-budget: methods are compared at equal queries; give a query budget instead")
    if config.templates is not None:
        raise UserError(f"templates {config.templates}: methods are compared with one template; leave it out")
    return replace(config, head="none", query_budget=config.query_budget or QUERIES)


def _find_sources(
    clip: Clip, datasets: Sequence[str | Path], shift: Sequence[str | Path], config: TuneConfig
) -> list[DatasetSource]:
    """Return the datasets; all folders are looked through before the first image is decoded."""
    shifted = name_folders(shift)
    sources = [
        DatasetSource(name, path, with_template(config, path), shifted) for name, path in name_folders(datasets).items()
    ]
    for source in sources:
        drawn, _ = source.draw(0)
        names = drawn["train"].images.class_names
        tokenise_prompts(clip.tokenizer, source.config.template or PLAIN, names)
    return sources


def _default_folder(sources: Sequence[DatasetSource], clip: Clip) -> Path:
    """Return `comparisons/<datasets>-<model>`; a name that is too long is cut and ends in a digest."""
    name = f"{'+'.join(source.name for source in sources)}-{clip.folder.resolve().name}"
    whole = os.fsencode(name)
    if len(whole) > LONGEST_NAME:
        name = f"{whole[: LONGEST_NAME - 13].decode(errors='ignore')}-{hashlib.sha256(whole).hexdigest()[:12]}"
    return COMPARISONS / name


def _check_folder(folder: Path) -> None:
    """Refuse a folder that holds anything but a comparison, or that cannot be written to."""
    check_place(folder)
    visible = [entry for entry in folder.iterdir() if not entry.name.startswith(".")] if folder.is_dir() else []
    if visible and not (folder / RECORD).is_file() and not holds_results(folder):
        raise UserError(f"{folder}: holds files but no comparison; choose another --output")
