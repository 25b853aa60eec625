"""`sharpzo-mlx tune DATASET`: fits the prompt to a folder of images and leaves a run behind.

Its options are the fields of TuneConfig. Progress goes to stderr; the results, what they cost and the
next command go to stdout, or one JSON object with `--json`.

>>> sharpzo-mlx tune photos/ --shots 16 --seed 0  # doctest: +SKIP
"""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sharpzo_mlx.cli import wording
from sharpzo_mlx.cli.options import PATH, GroupedCommand, config_options
from sharpzo_mlx.config import TuneConfig

if TYPE_CHECKING:
    from sharpzo_mlx.runs.run import Run

RESULTS = ("zero_shot", "val", "test", "queries", "seconds", "peak_memory_mb")
OF_HEAD = ("val_text", "test_text", "head")  # only where the run has one


@click.command("tune", cls=GroupedCommand)
@click.argument("dataset", type=PATH)
@click.option("--model", type=PATH, help="Model folder  [the default of `convert`]")
@click.option("--output", type=PATH, help="Run folder  [runs/DATASET-MODEL-SEED]")
@click.option("--resume", is_flag=True, help="Go on with the run in its folder; start it if there is none.")
@click.option("--report/--no-report", default=True, help="Write RUN/report.html at the end.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout at the end.")
def tune_command(
    dataset: Path, *, model: Path | None, output: Path | None, resume: bool, report: bool, as_json: bool, **given: Any
) -> None:
    """Tune a prompt on DATASET, a folder with one folder of images per class.

    Folders train/, val/ and test/ inside are honoured; without them a split is drawn by the seed.
    """
    options = {name: value for name, value in given.items() if value is not None}
    config = chosen(options)
    from sharpzo_mlx.cli import progress
    from sharpzo_mlx.clip import handle
    from sharpzo_mlx.runs.resume import default_folder
    from sharpzo_mlx.tuning import pipeline  # after the options are checked: loading takes a moment

    clip = handle.load(model)
    if resume:
        config = continued(config, options, output or default_folder(clip.folder, dataset, config.seed, resume=True))
    events = pipeline.tune_steps(clip, dataset, config, output=output, resume=resume)
    run = progress.follow(events)
    if report:
        from sharpzo_mlx.report import page

        # the landscape costs queries, which the budgets of this command do not foresee: `report` adds it
        page.write_report(run, clip=clip, landscape=False)
    if as_json:
        wording.echo_json(as_record(run))
    else:
        click.echo(summary(run, dataset))


tune_command.params.extend(config_options(TuneConfig))


def chosen(options: dict[str, Any]) -> TuneConfig:
    """The configuration that the options given make."""
    from sharpzo_mlx.presets import preset

    return preset(options.get("preset", "default"), **{k: v for k, v in options.items() if k != "preset"})


def continued(config: TuneConfig, options: dict[str, Any], folder: Path) -> TuneConfig:
    """A run that is there goes on with its own options; those given again must be the same, and are checked later."""
    from sharpzo_mlx.runs.run import Run

    return dataclasses.replace(Run.load(folder).config, **options) if Run.exists(folder) else config


def as_record(run: Run) -> dict[str, Any]:
    """The result for a script: accuracies 0..1, `test` null without a test split."""
    results = run.results.to_json()
    of_head = {name: results[name] for name in OF_HEAD if name in results}
    return {"run": str(run.folder), **{name: results[name] for name in RESULTS}, **of_head}


def summary(run: Run, dataset: Path) -> str:
    """The result for a reader: zero-shot and tuned, what it cost, where it lies, what to type next."""
    results = run.results
    rows = [("", "zero-shot", "tuned", "change")]
    rows.append(_row("validation", results.zero_shot_val, results.val))
    if results.test is not None:
        rows.append(_row("test", results.zero_shot, results.test))
        if results.test_text is not None:
            rows.append(_row("test, words alone", results.zero_shot, results.test_text))
    head = f"{wording.head(run.prompt.head)}\n" if run.prompt.head is not None else ""
    cost = (
        f"{results.queries} queries in {wording.duration(results.seconds)}, "
        f"{wording.amount(results.peak_memory_mb * 2**20)} of MLX memory"
    )
    following = shlex.join(["sharpzo-mlx", "evaluate", str(run.folder), str(_to_evaluate(run, dataset))])
    return f"{wording.aligned(rows)}\n\n{head}{cost}\nrun: {run.folder}\nnext: {following}"


def _to_evaluate(run: Run, dataset: Path) -> Path:
    """The folder that the test images came from; a word in its place where they have none of their own."""
    from sharpzo_mlx.datasets.coop import find_split_file
    from sharpzo_mlx.datasets.folder import inner_folder, split_folders

    placeholder = Path("FOLDER")
    if run.results.test is None or not dataset.is_dir() or find_split_file(dataset):
        return placeholder
    return split_folders(inner_folder(dataset)).get("test", placeholder)


def _row(name: str, before: float | None, after: float | None) -> tuple[str, str, str, str]:
    return name, wording.percent(before), wording.percent(after), wording.points(before, after)
