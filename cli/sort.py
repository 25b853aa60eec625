"""`sharpzo-mlx sort RUN FOLDER --into DIR`: puts images into folders by their labels, or tags them.

Without `--apply` it prints the plan and does nothing. It copies unless told otherwise, overwrites nothing and keeps a
journal, from which `--undo` puts everything back. `--plan FILE` carries out a plan file without a model.

>>> sharpzo-mlx sort runs/pets-clip-0 new/ --into sorted/ --reject 0.05 --apply  # doctest: +SKIP
"""

from __future__ import annotations

import shlex
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click
import cloup

from sharpzo_mlx.cli import wording
from sharpzo_mlx.cli.image_bar import open_bar
from sharpzo_mlx.cli.options import PATH, at_most_one
from sharpzo_mlx.cli.sort_text import describe_plan, describe_result, describe_undone
from sharpzo_mlx.errors import UserError

if TYPE_CHECKING:
    from sharpzo_mlx.sorting.items import Mode, Sorted
    from sharpzo_mlx.sorting.plan import SortPlan

REJECT_HELP = "Images unlike the labelled ones go to unsorted/; about this share of the labelled kind does too."
LINK_HELP = "Make hard links: a second name of the same file, which takes no room."
NAMED_MOST = 3  # files that are named, of those that stay as they are


@cloup.command("sort", show_constraints=False)
@cloup.argument("run_folder", metavar="RUN", type=PATH, required=False)
@cloup.argument("folder", metavar="FOLDER", type=PATH, required=False)
@cloup.option_group(
    "Where and how",
    cloup.option("--into", type=PATH, metavar="DIR", help="The folder for the class folders."),
    cloup.option("--apply", is_flag=True, help="Do what is printed; without it nothing is touched."),
    cloup.option("--move", is_flag=True, help="Move the images in place of copying them."),
    cloup.option("--link", is_flag=True, help=LINK_HELP),
    cloup.option("--symlink", is_flag=True, help="Make symbolic links, also across disks; they need the originals."),
    cloup.option("--tag", is_flag=True, help="Write the labels into XMP sidecars beside the images; no --into."),
    cloup.option("--xmp-by-stem", is_flag=True, help="New sidecars are a.xmp in place of a.jpg.xmp."),
)
@cloup.option_group(
    "Labels",
    cloup.option("--reject", type=float, metavar="RATE", help=REJECT_HELP),
    cloup.option("--recursive", is_flag=True, help="Read folders inside folders too."),
    cloup.option("--model", type=PATH, help="Model folder, if it has moved since tuning."),
)
@cloup.option_group(
    "Plans and journals",
    cloup.option("--save-plan", type=PATH, metavar="FILE", help="Write the labels to a plan file, to edit or keep."),
    cloup.option("--plan", type=PATH, metavar="FILE", help="Carry out a plan file in place of RUN and FOLDER."),
    cloup.option("--undo", type=PATH, metavar="JOURNAL", help="Put back what the sorting of this journal did."),
    cloup.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout."),
)
def sort_command(
    run_folder: Path | None,
    folder: Path | None,
    *,
    undo: Path | None,
    apply: bool,
    save_plan: Path | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Put the images of FOLDER into folders by the labels of the run RUN, a folder or the name OWNER/NAME of a run on
    the hub.

    Prints the plan and touches nothing until --apply. Copies, and overwrites nothing. The same command
    goes on after an interruption, and --undo puts everything back.
    """
    if undo is not None:
        _check_alone(undo, run_folder, apply, save_plan, settings)
        _undo(undo, as_json=as_json)
        return
    plan = _make_plan(run_folder, folder, **settings)
    if save_plan is not None:
        plan.save(save_plan)
    _name(plan.unread)
    if apply:
        _apply(plan, as_json=as_json)
        return
    found = plan.survey()
    _name(found.failures)
    if as_json:
        wording.echo_json(_plan_record(plan, found))
        return
    click.echo(describe_plan(plan, found))
    if save_plan is not None:
        click.echo(wording.escape(f"plan: {save_plan}"))


def _check_alone(undo: Path, run_folder: Path | None, apply: bool, save_plan: Path | None, others: Any) -> None:
    if run_folder or apply or save_plan or any(value not in (None, False) for value in others.values()):
        raise UserError(f"--undo {undo}: needs nothing but the journal; leave the rest out")


def _make_plan(
    run_folder: Path | None,
    folder: Path | None,
    *,
    plan: Path | None,
    into: Path | None,
    model: Path | None,
    reject: float | None,
    recursive: bool,
    xmp_by_stem: bool,
    **flags: bool,
) -> SortPlan:
    mode = cast("Mode", at_most_one(**flags) or "copy")
    if xmp_by_stem and mode != "tag":
        raise UserError("--xmp-by-stem: is for --tag")
    if plan is not None:
        given = {"RUN": run_folder, "--model": model, "--reject": reject, "--recursive": recursive}
        if spare := [name for name, value in given.items() if value not in (None, False)]:
            raise UserError(f"--plan {plan}: has the folder and the labels; leave {spare[0]} out")
        from sharpzo_mlx.sorting.plan import read_sort_plan

        return read_sort_plan(plan, into, mode=mode, xmp_by_stem=xmp_by_stem)
    if run_folder is None or folder is None:
        raise UserError("RUN and FOLDER are needed, or --plan FILE, or --undo JOURNAL (see `sharpzo-mlx sort --help`)")
    return _label(
        run_folder, folder, into, model=model, mode=mode, reject=reject, recursive=recursive, xmp_by_stem=xmp_by_stem
    )


def _label(run_folder: Path, folder: Path, into: Path | None, *, model: Path | None, **settings: Any) -> SortPlan:
    from sharpzo_mlx.clip import handle
    from sharpzo_mlx.hub.runs import load_run
    from sharpzo_mlx.sorting.plan import check_folders, list_files, plan_steps

    source, _ = check_folders(folder, into, settings["mode"])  # before the model is loaded
    listing = list_files(source, recursive=settings["recursive"])
    run = load_run(run_folder, progress=sys.stderr.isatty())
    steps = plan_steps(run, folder, into, clip=None if model is None else handle.load(model), **settings)
    with open_bar(sum(1 for _ in listing)) as bar, closing(steps):
        while True:
            try:
                bar.move(next(steps))
            except StopIteration as end:
                return cast("SortPlan", end.value)


def _apply(plan: SortPlan, *, as_json: bool) -> None:
    steps = plan.apply_steps()
    state: Sorted | None = None
    with open_bar(len(plan.order.items)) as bar, closing(steps):
        try:
            for state in steps:
                bar.move(state.seen)
        except KeyboardInterrupt:
            _note("the same command goes on with the rest")
            if state is not None and state.journal:
                _note(f"sharpzo-mlx sort --undo {shlex.quote(state.journal)} puts back what was done")
            raise
    if state is None:
        raise UserError(f"{plan.order.folder}: no image of it can be sorted")
    _name(state.failures)
    if as_json:
        wording.echo_json(_result_record(plan, state))
    else:
        click.echo(describe_result(plan, state))


def _undo(journal: Path, *, as_json: bool) -> None:
    from sharpzo_mlx.sorting.undo import Undone, undo_steps

    steps = undo_steps(journal)
    with open_bar(None) as bar, closing(steps):
        while True:
            try:
                bar.move(next(steps)[0])
            except StopIteration as end:
                result = cast(Undone, end.value)
                break
    _name(result.kept)
    if as_json:
        kept = [{"path": one.path, "reason": one.reason} for one in result.kept]
        wording.echo_json({"files": result.files, "kept": kept, "before": result.before})
    else:
        click.echo(describe_undone(journal, result))


def _name(failures: Any) -> None:
    """Name files that stay as they are, the first of them, on stderr."""
    for one in failures[:NAMED_MOST]:
        _note(f"{one.path}: {one.reason}")
    if len(failures) > NAMED_MOST:
        _note(f"and {len(failures) - NAMED_MOST} more files stay as they are")


def _note(line: str) -> None:
    print(wording.escape(f"note: {line}"), file=sys.stderr, flush=True)


def _plan_record(plan: SortPlan, found: Any) -> dict[str, Any]:
    order = plan.order
    return {
        "folder": str(order.folder),
        "into": str(order.into),
        "mode": order.mode,
        "images": len(order.items),
        "classes": dict(found.classes),
        "there": found.there,
        "numbered": found.numbered,
        "sidecars": found.sidecars,
        "failures": [{"path": one.path, "reason": one.reason} for one in (*plan.unread, *found.failures)],
    }


def _result_record(plan: SortPlan, state: Sorted) -> dict[str, Any]:
    return {
        "images": state.total,
        "done": state.done,
        "there": state.there,
        "numbered": state.numbered,
        "sidecars": state.sidecars,
        "failures": [{"path": one.path, "reason": one.reason} for one in (*plan.unread, *state.failures)],
        "journal": state.journal,
    }
