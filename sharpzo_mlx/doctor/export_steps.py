"""A step that runs exported packages with Core ML, which only a Mac has.

>>> run_core_ml(workspace).numbers["float32_difference"]  # doctest: +SKIP
1.3e-06
"""

from __future__ import annotations

import sharpzo_mlx as sz
from sharpzo_mlx.doctor.run_steps import tune_painted
from sharpzo_mlx.doctor.steps import Answer, NotHere, Number
from sharpzo_mlx.doctor.workspace import Workspace
from sharpzo_mlx.exporting import coreml_machine
from sharpzo_mlx.exporting.formats import export
from sharpzo_mlx.exporting.options import ExportOptions
from sharpzo_mlx.exporting.sample import LARGEST
from sharpzo_mlx.runtime import extras

WAYS = {
    "float32": ExportOptions(),
    "float16": ExportOptions(dtype="float16"),
    "head_only": ExportOptions(head_only=True),
}


def run_core_ml(workspace: Workspace) -> Answer:
    """Export a run on painted pictures as Core ML packages, and compare their answers with this program's."""
    if (reason := coreml_machine.why_not_here()) is not None:
        raise NotHere(reason)
    if not extras.has("coremltools"):
        raise NotHere(f"needs coremltools: {extras.install('coreml')}")
    run = tune_painted(workspace, "core-ml", sz.TuneConfig(shots=workspace.sizes.painted.train))
    numbers: dict[str, Number] = {}
    differences = []
    for name, options in WAYS.items():
        report = export(run, "coreml", workspace.folder / "core-ml" / f"{name}.mlpackage", options=options)
        assert report.checked is not None, "it is compared where Core ML is"
        differences.append(report.checked.difference)
        numbers |= {f"{name}_difference": differences[-1], f"{name}_bytes": sum(size for _, size in report.files)}
    shown = ", ".join(f"{name} {one:.0e}" for name, one in zip(WAYS, differences, strict=True))
    return Answer(f"probabilities differ by {shown}", numbers, max(differences) <= LARGEST)
