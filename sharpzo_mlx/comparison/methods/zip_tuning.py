"""ZIP: search a context of few, shared parameters by SPSA with clipped estimates.

The context lies in the space of `zip_space`; estimates longer than sqrt(d) are shortened (Park et al., "ZIP: An
Efficient Zeroth-order Prompt Tuning for Black-box Vision-Language Models", ICLR 2025, arXiv 2504.06838). Ours: image
features are cached, so a query is the loss of all training images, not of a minibatch of 128; the context is as long as
the template; the random matrices are Gaussian, which Fastfood approximates.

>>> for progress in start(task, METHODS[0].tuned):  # doctest: +SKIP
...     print(progress.queries, progress.best.accuracy)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from sharpzo_mlx.comparison.methods.classifiers import CosineClassifier
from sharpzo_mlx.comparison.methods.method import AVERAGING, Method, Steps, Task
from sharpzo_mlx.comparison.methods.spsa_search import Descent, check_draws, descend
from sharpzo_mlx.comparison.methods.zip_space import ZipSpace
from sharpzo_mlx.datasets.templates import PLAIN
from sharpzo_mlx.objective.build import Problem
from sharpzo_mlx.objective.objective import Objective
from sharpzo_mlx.optimisers.spsa import SPSAParams
from sharpzo_mlx.prompts.tokens import tokenise_prompts
from sharpzo_mlx.rng import key_for


@dataclass(frozen=True)
class ZipOptions:
    """ZIP's own options; the defaults are those of its code.

    Attributes:
        learning_rate: a of SPSA's gains.
        mu: c of SPSA's gains.
        draws: estimates that are averaged in a step.
        rank: r.
        intrinsic: summed length of the vectors q_i of all tokens; each has an equal share.
        unit_columns: whether the columns of the random matrices have unit length, as in the paper; otherwise their
            spread is the task's, as for every method.
        clipped: whether estimates longer than sqrt(d) are shortened to it.
        averaging: largest weight of the old average in the average of the iterates.
        validate_every: steps between two validations.
    """

    learning_rate: float = 0.01
    mu: float = 0.01
    draws: int = 5
    rank: int = 5
    intrinsic: int = 500
    unit_columns: bool = True
    clipped: bool = True
    averaging: float = 0.0
    validate_every: int = 10


def start(task: Task, options: Mapping[str, Any]) -> Steps:
    """Return the generator of the search; see `method.Method`."""
    chosen = ZipOptions(**options)
    problem, space = make_zip_problem(task, chosen)
    first = space.make_start(key_for(task.config.seed, "zip"))
    params = SPSAParams(
        learning_rate=chosen.learning_rate,
        mu=chosen.mu,
        draws=chosen.draws,
        clipped=chosen.clipped,
        averaging=chosen.averaging,
    )
    search = Descent(
        params=params,
        start=first,
        zero_shot=(first, problem.validate(first)),
        loss_at=lambda step: problem.objective,
        validate=problem.validate,
        predictor=partial(CosineClassifier.at, problem),
        validate_every=chosen.validate_every,
    )
    return (yield from descend(task, search))


def make_zip_problem(task: Task, options: ZipOptions) -> tuple[Problem, ZipSpace]:
    """Return the objective and validation of the task over ZIP's parameters, and their space."""
    template = task.config.template or PLAIN
    tokens = len(tokenise_prompts(task.clip.tokenizer, template, task.train.class_names).prefix)
    scale = {"space.projection_std": task.clip.config.text.hidden_size**-0.5} if options.unit_columns else {}
    problem = task.problem({"space.dimension": max(2, options.intrinsic // tokens), **scale})
    plain = problem.objective
    space = ZipSpace(plain.space.initial, plain.space.projection, options.rank)
    objective = Objective(
        plain.text,
        space,
        plain.embeddings,
        task.train.labels.tolist(),
        logit_scale=plain.logit_scale,
        memory_budget=task.config.memory_budget,
    )
    return dataclasses.replace(problem, objective=objective), space


OURS: Mapping[str, Any] = {"unit_columns": False, "averaging": AVERAGING}
METHODS = (
    Method(
        name="zip",
        title="ZIP",
        source="Park et al., ICLR 2025, arXiv 2504.06838",
        start=start,
        check=lambda config, options: check_draws(config.query_budget, ZipOptions(**options).draws),
        published=dataclasses.asdict(ZipOptions()),
        tuned={**OURS, "learning_rate": 0.3},
        trials=tuple({**OURS, "learning_rate": rate} for rate in (0.15, 0.3, 0.6, 1.2)),
    ),
)
