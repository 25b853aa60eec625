"""Tune, and write the page of the run: what `sz.tune` and the command line do alike.

>>> run = tune(clip, "dataset/", TuneConfig(shots=16))  # doctest: +SKIP
>>> (run.folder / "report.html").is_file()  # doctest: +SKIP
True
"""

from __future__ import annotations

from pathlib import Path

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.report.page import write_report
from sharpzo_mlx.runs.run import Run
from sharpzo_mlx.runtime.helpers import helped_at
from sharpzo_mlx.tuning import pipeline


def tune(
    clip: Clip,
    dataset: str | Path,
    config: TuneConfig | None = None,
    *,
    output: str | Path | None = None,
    resume: bool = False,
    report: bool = True,
    cluster: str | None = None,
) -> Run:
    """Tune a prompt to a folder of images; see `tune_steps` for the arguments and errors.

    Args:
        clip: the checkpoint.
        dataset: the folder.
        config: the settings.
        output: the run's folder.
        resume: continue the run in that folder.
        report: write `report.html` into the run's folder at the end.
        cluster: workers that help: `local:N` or an address, as `open_cluster` takes it; None for no others.

    Returns:
        The run, with its results and its prompt.
    """
    with helped_at(cluster):
        run = pipeline.tune(clip, dataset, config, output=output, resume=resume)
        if report:
            write_tuning_report(run, clip)
        return run


def write_tuning_report(run: Run, clip: Clip) -> Path:
    """Write the page of a run that was just tuned, without the landscape: its queries are in no budget."""
    return write_report(run, clip=clip, landscape=False)
