"""`sharpzo-mlx compare DATASET...`: runs methods at equal query budgets; one table and two plots for each dataset.

Everything lies in the comparison's folder: a file for each result, `comparison.json`, `comparison.md` and the curves.
The same command continues where it was interrupted. If a method fails, the exit code is 1 and the failure is named.

>>> sharpzo-mlx compare photos/ --methods all --seeds 5 --query-budget 20000  # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import cloup

from sharpzo_mlx.cli import wording
from sharpzo_mlx.cli.cluster_options import cluster_options
from sharpzo_mlx.cli.options import PATH
from sharpzo_mlx.comparison.methods import registry

if TYPE_CHECKING:
    from sharpzo_mlx.comparison.record import Comparison
    from sharpzo_mlx.config import TuneConfig


@cloup.command("compare")
@click.argument("datasets", metavar="DATASET...", nargs=-1, required=True, type=PATH)
@cloup.option("--methods", default=registry.ALL, help="Names and groups, with commas between  [all]")
@cloup.option("--seeds", type=int, default=5, help="Number of seeds, from 0  [5]")
@cloup.option("--query-budget", type=int, default=5000, help="Queries of each method  [5000]")
@cloup.option("--shots", type=int, help="Training images per class  [16, or what there is]")
@cloup.option("--template", help="Prompt with {} for the class name.")
@cloup.option("--model", type=PATH, help="Model folder or name  [the default of `convert`]")
@cloup.option("--output", type=PATH, help="Folder  [comparisons/DATASETS-MODEL]")
@cloup.option("--shift", multiple=True, type=PATH, help="Also measure on this folder; repeatable.")
@cloup.option("--published", is_flag=True, help="Also run each method with the settings of its paper.")
@cloup.option("--trials", is_flag=True, help="Also run all settings that the default ones were chosen from.")
@cloup.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout at the end.")
@cluster_options
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
    """Compare methods on each DATASET: same splits, same features, same query budget.

    Results that are in the output folder already are not computed again.
    """
    from sharpzo_mlx.config import TuneConfig

    registry.chosen_names(methods)
    config = TuneConfig(shots=shots, template=template, query_budget=query_budget)
    wanted = _variants(published=published, trials=trials)
    found = _compare(model, datasets, config, methods=methods, seeds=seeds, variants=wanted, shift=shift, output=output)
    if as_json:
        wording.echo_json(found.to_json())
    else:
        _show(found)
    if found.failed:
        click.echo(wording.escape(_describe_failures(found)), err=True)
        ctx.exit(1)


def _variants(*, published: bool, trials: bool) -> list[str]:
    """Return the settings with which each method runs."""
    from sharpzo_mlx.comparison import variants
    from sharpzo_mlx.comparison.methods.method import PUBLISHED

    flags = {variants.TUNED: True, PUBLISHED: published, variants.TRIALS: trials}
    return [name for name, wanted in flags.items() if wanted]


def _compare(model: Path | None, datasets: tuple[Path, ...], config: TuneConfig, **settings: Any) -> Comparison:
    from sharpzo_mlx.cli import progress
    from sharpzo_mlx.clip import handle
    from sharpzo_mlx.comparison import runner

    return progress.follow_comparison(runner.compare_steps(handle.load(model), datasets, config, **settings))


def _show(found: Comparison) -> None:
    from sharpzo_mlx.comparison import table_text

    click.echo(table_text.as_text(found, wording.screen_width(), whole_names=not wording.on_screen()))
    click.echo("\n" + wording.escape(f"tables, curves, results: {found.folder}"))


def _describe_failures(found: Comparison) -> str:
    """Return the line that says what failed, and what to do."""
    failed = found.failed
    first = failed[0]
    return (
        f"error: {len(failed)} results failed, the first: {first.method} ({first.variant}) on {first.dataset}, "
        f"seed {first.seed}: {first.error}; the same command tries them again"
    )
