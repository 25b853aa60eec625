"""`sharpzo-mlx tune DATASET`: tune CLIP to a folder of images and write a run.

Its options are fields of TuneConfig; `--set` reaches every other setting. Progress goes to stderr; the results, their
cost and the next command go to stdout, or one JSON object with `--json`.

>>> sharpzo-mlx tune photos/ --shots 16 --seed 0  # doctest: +SKIP
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import cloup

from sharpzo_mlx.cli import wording
from sharpzo_mlx.cli.cluster_options import cluster_options
from sharpzo_mlx.cli.options import PATH, at_most_one, config_options, read_assignments
from sharpzo_mlx.cli.options_page import list_settings
from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.presets import preset_settings

if TYPE_CHECKING:
    from sharpzo_mlx.runs.run import Run

RESULTS = ("zero_shot", "val", "test", "queries", "seconds", "peak_memory_mb")
OF_HEAD = ("test_text", "head")  # present only if the run has a head
LIST_HELP = "Show the names of all settings and exit."
SET_HELP = "Any other setting by its name."


def show_settings(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    """Print every setting with its default and meaning, and exit."""
    if wanted and not ctx.resilient_parsing:
        click.echo(list_settings())
        ctx.exit()


@cloup.command("tune", align_option_groups=True)
@click.argument("dataset", type=PATH)
@cloup.option_group("What to learn", *config_options("shots", "seed", "template", "templates", "head", "views"))
@cloup.option_group(
    "How to search",
    cloup.option("--preset", metavar="NAME", help="Named settings: default, paper, paper:DATASET."),
    *config_options("generations", "steps", "query_budget", "time_budget", "memory_budget"),
    cloup.option("--set", "assignments", metavar="NAME=VALUE", multiple=True, help=SET_HELP),
    cloup.option(
        "--list-settings", is_flag=True, is_eager=True, expose_value=False, callback=show_settings, help=LIST_HELP
    ),
    cloup.option("--config", "settings_file", type=PATH, help="TOML file of settings; every run writes one."),
)
@cloup.option_group(
    "Where",
    cloup.option("--model", type=PATH, help="Model folder or name  [the default of `convert`]"),
    cloup.option("--output", type=PATH, help="Run folder  [runs/DATASET-MODEL-SEED, or …-2 etc.]"),
    cloup.option("--resume", is_flag=True, help="Continue the run in its folder, or begin it."),
    cloup.option("--report/--no-report", default=True, help="Write RUN/report.html at the end."),
    cloup.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout at the end."),
)
@cluster_options
def tune_command(
    dataset: Path,
    *,
    preset: str | None,
    assignments: tuple[str, ...],
    settings_file: Path | None,
    model: Path | None,
    output: Path | None,
    resume: bool,
    report: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Tune CLIP to DATASET, a folder with one folder of images per class.

    Folders train/, val/ and test/ inside are used; without them the seed draws a split.
    """
    at_most_one(preset=preset, config=settings_file)
    layers = collect_settings(given, preset=preset, assignments=assignments, settings_file=settings_file)
    config = apply_settings(TuneConfig(), layers)
    from sharpzo_mlx.datasets.folder import checked_folder

    checked_folder(dataset)  # before the model is looked for
    from sharpzo_mlx import load, tune_steps  # slow, so after the checks
    from sharpzo_mlx.cli import progress
    from sharpzo_mlx.report.tune_and_report import write_tuning_report
    from sharpzo_mlx.runs.resume import default_folder

    clip = load(model)
    if resume:
        folder = output or default_folder(clip.folder, dataset, config.seed, resume=True)
        config = continue_config(config, layers, folder)
    run = progress.follow(tune_steps(clip, dataset, config, output=output, resume=resume))
    if as_json:  # first, so that a page which fails costs nobody the result
        wording.echo_json(make_record(run))
    else:
        click.echo(format_summary(run, dataset))
    if report:
        write_tuning_report(run, clip)


def collect_settings(
    given: Mapping[str, Any],
    *,
    preset: str | None = None,
    assignments: Sequence[str] = (),
    settings_file: Path | None = None,
) -> list[Mapping[str, Any]]:
    """Return the settings of a command line in layers, the later ones over the earlier ones.

    Args:
        given: the options by their fields' names, None if not given.
        preset: the name of a preset.
        assignments: words such as `stage2.draws=48`.
        settings_file: a TOML file.

    Raises:
        UserError: a layer cannot be read.
    """
    layers: list[Mapping[str, Any]] = []
    if preset is not None:
        layers.append(preset_settings(preset))
    if settings_file is not None:
        from sharpzo_mlx.runs.settings_file import read_settings

        layers.append(read_settings(settings_file))
    layers.append(read_assignments(assignments))
    layers.append({name: value for name, value in given.items() if value is not None})
    return layers


def apply_settings(base: TuneConfig, layers: Iterable[Mapping[str, Any]]) -> TuneConfig:
    """Return a configuration changed by the layers of settings, in order."""
    for settings in layers:
        base = base.with_settings(settings)
    return base


def continue_config(config: TuneConfig, layers: Iterable[Mapping[str, Any]], folder: Path) -> TuneConfig:
    """Return the configuration of the run in a folder, changed by the settings; return `config` if no run is there.

    `tune_steps` refuses settings that differ from the run's own and names them.
    """
    from sharpzo_mlx.runs.run import Run

    return apply_settings(Run.load(folder).config, layers) if Run.exists(folder) else config


def make_record(run: Run) -> dict[str, Any]:
    """Return the result for JSON: accuracies 0..1; `test` is null without a test split."""
    results = run.results.to_json()
    of_head = {name: results[name] for name in OF_HEAD if name in results}
    return {"run": str(run.folder), **{name: results[name] for name in RESULTS}, **of_head}


def format_summary(run: Run, dataset: Path) -> str:
    """Return the result as text: accuracies, cost, the run's folder and the next command."""
    results = run.results
    rows = [("", "zero-shot", "tuned", "change")]
    known = results.val if results.head is None or run.leaves_out else None
    rows.append(_format_row(results.chosen_on, results.zero_shot_val, known))
    if results.test is not None:
        rows.append(_format_row("test", results.zero_shot, results.test))
        if results.head is not None and results.head.words_kept:
            rows.append(_format_row("test, words alone", results.zero_shot, results.test_text))
    head = f"{wording.head(results.head)}\n" if results.head is not None else ""
    cost = (
        f"{results.queries} queries in {wording.duration(results.seconds)}, "
        f"{wording.amount(results.peak_memory_mb * 2**20)} of MLX memory"
    )
    if (kept := results.cache_memory_mb or 0.0) >= 1:
        cost += f" (and {wording.amount(kept * 2**20)} kept for reuse)"
    following = shlex.join(["sharpzo-mlx", "evaluate", str(run.folder), str(_choose_folder(run, dataset))])
    places = f"run: {wording.escape(str(run.folder))}\nnext: {wording.escape(following)}"
    return f"{wording.aligned(rows)}\n\n{head}{cost}\n{places}"


def _choose_folder(run: Run, dataset: Path) -> Path:
    """Return the folder of the test images, or the word FOLDER if they have no folder of their own."""
    from sharpzo_mlx.datasets.coop import find_split_file
    from sharpzo_mlx.datasets.folder import inner_folder, split_folders

    placeholder = Path("FOLDER")
    if run.results.test is None or not dataset.is_dir() or find_split_file(dataset):
        return placeholder
    return split_folders(inner_folder(dataset)).get("test", placeholder)


def _format_row(name: str, before: float | None, after: float | None) -> tuple[str, str, str, str]:
    return name, wording.percent(before), wording.percent(after), wording.points(before, after)
