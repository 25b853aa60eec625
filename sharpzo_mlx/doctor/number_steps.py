"""Steps that compare the numbers of this device with those of NumPy, and derivatives with one another.

>>> compare_backends(workspace).numbers["loss_difference"]  # doctest: +SKIP
3.1e-07
"""

from __future__ import annotations

import warnings

import mlx.core as mx
import numpy as np

from sharpzo_mlx.doctor.networks import make_objective
from sharpzo_mlx.doctor.steps import Answer
from sharpzo_mlx.doctor.workspace import Workspace
from sharpzo_mlx.objective.backend import BackendName
from sharpzo_mlx.objective.loss import mean_losses
from sharpzo_mlx.objective.objective import Objective
from sharpzo_mlx.runtime import precision
from sharpzo_mlx.runtime.products import host_products

CLASSES, CANDIDATES = 10, 5
CLOSE = 1e-4  # relative difference of losses, slopes and features in float32 that is still rounding
SAME_WAY = 0.999  # cosine of two gradients
STEP = 0.1  # length of a difference in w; shorter ones measure the rounding of losses


def measure_products(workspace: Workspace) -> Answer:
    """Measure the error of products in every type that weights may have; float32 has to be full float32."""
    types = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
    errors = {name: precision.product_error(dtype) for name, dtype in types.items()}
    errors |= {f"{bits}-bit": precision.quantised_product_error(bits, 64) for bits in (8, 4)}
    words = ", ".join(f"{name} {error:.0e}" for name, error in errors.items())
    return Answer(f"relative errors: {words}", dict(errors), errors["float32"] <= precision.COARSE)


def compare_backends(workspace: Workspace) -> Answer:
    """Compare losses and class features of MLX's graph with those of NumPy on the host."""
    graph, host = _make_objective(workspace, "graph"), _make_objective(workspace, "numpy")
    w = _draw_w(graph, CANDIDATES)
    losses = _relative(np.array(graph.losses(w)), np.array(host.losses(w)))
    features = float(np.abs(np.array(graph.features(w)) - np.array(host.features(w))).max())
    numbers = {"loss_difference": losses, "feature_difference": features}
    words = f"losses differ by {losses:.0e} of themselves, class features by {features:.0e}"
    return Answer(words, dict(numbers), max(losses, features) <= CLOSE)


def compare_gradients(workspace: Workspace) -> Answer:
    """Compare forward-mode derivatives and differences of losses with the gradient that backpropagation gives."""
    objective = _make_objective(workspace, "graph")
    w = _draw_w(objective, 1)[0]
    gradient = np.array(mx.grad(lambda x: _loss(objective, x))(w))
    u = _draw_directions(objective.dimension)
    exact = u @ gradient
    _, slopes = objective.jvp(mx.broadcast_to(w, u.shape), mx.array(u))
    ahead, behind = (np.array(objective.losses(w + sign * STEP * mx.array(u))) for sign in (1, -1))
    quotients = (ahead - behind) / (2 * STEP)
    numbers = {
        "derivative_error": _relative(np.array(slopes), exact),
        "difference_cosine": _cosine(quotients, exact),
        "gradient_norm": float(np.linalg.norm(gradient)),
    }
    right = numbers["derivative_error"] <= 10 * CLOSE and numbers["difference_cosine"] >= SAME_WAY
    words = f"derivatives are off by {numbers['derivative_error']:.0e}, cosine of differences "
    return Answer(f"{words}{numbers['difference_cosine']:.5f}", dict(numbers), right)


def watch_host_products(workspace: Workspace) -> Answer:
    """Count NumPy's false warnings of a product, as it is and as this program multiplies."""
    draw = np.random.default_rng(0)
    x = draw.standard_normal((256, 256))
    with warnings.catch_warnings(record=True) as plain:
        warnings.simplefilter("always")
        np.matmul(x, x)
    with warnings.catch_warnings(record=True) as guarded, host_products():
        warnings.simplefilter("always")
        np.matmul(x, x)
    numbers = {"warnings": len(plain), "warnings_guarded": len(guarded)}
    words = f"{len(plain)} false warnings of a plain product, {len(guarded)} of this program's"
    return Answer(words, dict(numbers), not guarded)


def _make_objective(workspace: Workspace, backend: BackendName) -> Objective:
    return make_objective(workspace.sizes.text, classes=CLASSES, backend=backend)


def _loss(objective: Objective, w: mx.array) -> mx.array:
    """Return L of w [d] as one lazy graph (0-d), which the backend's own evaluations would cut."""
    x = objective.space.contexts(w[None])
    for stage in objective.text.stages():
        x = stage(x)
    return mean_losses(x, objective.images)[0]


def _draw_w(objective: Objective, count: int) -> mx.array:
    return 0.4 * mx.random.normal((count, objective.dimension), key=mx.random.key(0))


def _draw_directions(dimension: int) -> np.ndarray:
    """Return eight random directions [8, d] of unit norm."""
    u = np.random.default_rng(1).standard_normal((8, dimension)).astype(np.float32)
    unit: np.ndarray = u / np.linalg.norm(u, axis=1, keepdims=True)
    return unit


def _relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
