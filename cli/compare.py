"""`sharpzo-mlx compare DATASET...`: methods x seeds at equal query budgets, one table a data set and one plot.

Everything lies in the comparison's folder: a file a cell, `comparison.json`, `runner.md` and the curves. The same
command goes on where it was interrupted. A method that failed is named, and the exit code is then 1.

>>> sharpzo-mlx compare photos/ --methods all --seeds 5 --query-budget 20000  # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sharpzo_mlx.cli import comparison_tables, wording
from sharpzo_mlx.cli.options import PATH
from sharpzo_mlx.comparison.methods import registry
from sharpzo_mlx.files import atomic_write

if TYPE_CHECKING:
    from sharpzo_mlx.comparison.runner import Comparison

PAGE = "comparison.md"


@click.command("compare")
@click.argument("datasets", metavar="DATASET...", nargs=-1, required=True, type=PATH)
@click.option("--methods", default=registry.ALL, help="Names and groups, with commas between  [all]")
@click.option("--seeds", type=int, default=5, help="How many, from 0  [5]")
@click.option("--query-budget", type=int, default=5000, help="Queries of each method  [5000]")
@click.option("--shots", type=int, help="Training images a class  [16, or what there is]")
@click.option("--template", help="Prompt with {} for the class name.")
@click.option("--model", type=PATH, help="Model folder  [the default of `convert`]")
@click.option("--output", type=PATH, help="Folder  [comparisons/DATASETS-MODEL]")
@click.option("--shift", multiple=True, type=PATH, help="Measure on this folder too; repeatable.")
@click.option("--published", is_flag=True, help="Also each method with the settings of its paper.")
@click.option("--trials", is_flag=True, help="Also every setting that the compared one was chosen from.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout at the end.")
@click.pass_context
def compare_command(
    ctx: click.Context,
    datasets: tuple[Path, ...],
    *,
    methods: str,
    seeds: int,
    query_budget: int,
    shots: int | None,
    template: str | None,
    model: Path | None,
    output: Path | None,
    shift: tuple[Path, ...],
    published: bool,
    trials: bool,
    as_json: bool,
) -> None:
    """Run methods beside each other on each DATASET: same splits, same features, same query budget.

    What lies in the output folder already is not computed again.
    """
    from sharpzo_mlx.config import TuneConfig

    registry.chosen_names(methods)
    config = TuneConfig(shots=shots, template=template, query_budget=query_budget)
    from sharpzo_mlx.cli import progress
    from sharpzo_mlx.clip import handle
    from sharpzo_mlx.comparison import plots, runner
    from sharpzo_mlx.comparison.methods.method import PUBLISHED

    flags = {runner.TUNED: True, PUBLISHED: published, runner.TRIALS: trials}
    events = runner.compare_steps(
        handle.load(model),
        datasets,
        config,
        methods=methods,
        seeds=seeds,
        variants=[name for name, wanted in flags.items() if wanted],
        shift=shift,
        output=output,
    )
    found = progress.follow_comparison(events)
    atomic_write(found.folder / PAGE, comparison_tables.markdown(found))
    plots.write_curves(found)
    if as_json:
        wording.echo_json(found.to_dict())
    else:
        click.echo(f"{comparison_tables.text(found)}\n\ntables, curves, figures: {found.folder}")
    if found.failed:
        click.echo(_failures(found), err=True)
        ctx.exit(1)


def _failures(found: Comparison) -> str:
    """One line at the end: what failed, and what to do."""
    cells = found.failed
    first = cells[0]
    return (
        f"error: {len(cells)} of the cells failed, the first: {first.method} ({first.variant}) on {first.dataset}, "
        f"seed {first.seed}: {first.error}; the same command tries them again"
    )
