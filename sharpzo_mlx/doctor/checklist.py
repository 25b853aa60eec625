"""The steps of a full check, in the order in which they are taken: short ones first, what may end the process last.

>>> len(STEPS) > 10
True
"""

from __future__ import annotations

from sharpzo_mlx.doctor import cost_steps, export_steps, image_steps, number_steps, run_steps, system_steps
from sharpzo_mlx.doctor.steps import Step

STEPS = (
    Step("precision of products", number_steps.measure_products),
    Step("NumPy's warnings", number_steps.watch_host_products),
    Step("graph against NumPy", number_steps.compare_backends),
    Step("gradients", number_steps.compare_gradients),
    Step("limits of memory", system_steps.read_limits),
    Step("files in the cloud", system_steps.read_cloud_flag),
    Step("locks", system_steps.try_locks),
    Step("spellings of names", system_steps.try_spellings),
    Step("threads", system_steps.call_from_threads),
    Step("a wait for the device", cost_steps.measure_waits),
    Step("a query", cost_steps.measure_queries),
    Step("a generation and a step", cost_steps.measure_search),
    Step("the demonstration", run_steps.tune_demo),
    Step("tuning twice", run_steps.repeat_tuning),
    Step("time budget", run_steps.keep_time),
    Step("Core ML", export_steps.run_core_ml),
    Step("memory while encoding", image_steps.measure_encoding),
    Step("half precision", image_steps.compare_half_precision),
    Step("float16 everywhere", image_steps.measure_raw_half_precision),
)
