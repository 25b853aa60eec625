"""Plan the memory of losses and derivatives: how many candidates are evaluated at once under a memory budget.

Everything here is a function of sizes and of the configuration, never of the free memory: other chunks give other last
bits, and a run has to repeat. What is given is not planned for: the image features and the offsets of their logits are
there in any case, and are read in slices. The constants count what is alive at once and were measured as their comments
say; the tests `test_objective_memory` and `test_linearised` compare the plan with the memory that is really used.

>>> sizes = Sizes(classes=10, images=160, features=512, tokens=60, width=512, context=2048)
>>> plan_chunks(sizes, budget=64 << 20, on_cpu=False)
Chunks(candidates=12, derivatives=4)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sharpzo_mlx.clip.activations import BLOCK
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.prompts.cpu_pieces import PieceSizes
from sharpzo_mlx.runtime.threads import workers

DEFAULT_BUDGET = 256 << 20  # bytes, where the user gives no memory budget
GPU_DEFAULT_BUDGET = 1 << 30  # the same on a GPU, which is busy only with large batches; a Mac has 8 GB at least

# The lazy graph. "Widths" are activations that are alive at once, in units of tokens x width x 4 bytes.
LIVE_WIDTHS = 45  # of a forward pass: measured on MLX's CPU device with the tests' tower
JVP_WIDTHS = 42  # of a directional derivative, taken layer by layer: measured there
GPU_JVP_WIDTHS = 120  # the same on a GPU, which frees nothing before a layer's end: measured on an H200
GPU_LAYER_WIDTHS = 25  # of each layer of a forward pass on a GPU: 270 for twelve layers, measured on an H200
JVP_BLOCKS = (
    14  # blocks alive inside an activation's derivative, which the CPU device computes in blocks: measured there
)
LOGITS_AT_ONCE = 1 << 22  # entries of one block of the N x K logits, of all candidates of a chunk

# NumPy on the CPU.
CPU_WIDTHS = 7  # states alive in a piece beside the MLP's: counted from the buffers, and confirmed with tracemalloc
CPU_LOGITS_AT_ONCE = 1 << 18  # entries of one block of the N x K logits of one candidate, on one core
CPU_PIECE_OVERHEAD = 512  # bytes of Python objects a candidate: measured with tracemalloc

# The linearised loss.
CURVATURE_SLOPES = 1 << 21  # slopes of logits that its curvature is computed from
CURVATURE_IMAGES = 256  # but of so many images at least
SLOPES_AT_ONCE = 1 << 22  # entries of one block of these slopes
CPU_SLOPES_AT_ONCE = 1 << 20  # the same in NumPy, on one core
CPU_PARTS = 8  # of the images, which the cores share
LIVE_SLOPES = 3  # blocks of slopes alive at once: counted from the products
LIVE_FEATURES = 4  # copies of the features of all probes while slopes are made from them: measured on the CPU device


@dataclass(frozen=True)
class Sizes:
    """The sizes of a problem that its memory follows from.

    Attributes:
        classes: K.
        images: N.
        features: D, the width of image and class features.
        tokens: tokens that the text tower computes for a candidate, unused places of the layout included.
        width: m, the width of the text tower.
        context: n * m, the entries of a context.
    """

    classes: int
    images: int
    features: int
    tokens: int
    width: int
    context: int


@dataclass(frozen=True)
class Chunks:
    """How many candidates, and how many directional derivatives, are computed at once."""

    candidates: int
    derivatives: int


def plan_chunks(
    sizes: Sizes, *, budget: int | None, on_cpu: bool, directions: int = 0, piece: PieceSizes | None = None
) -> Chunks:
    """Divide the memory budget.

    Args:
        sizes: the problem's sizes.
        budget: bytes, or None for the default.
        on_cpu: whether MLX's default device is the CPU; derivatives are taken there.
        directions: directions of a step with the linearised loss, whose memory is set aside first; 0: there is none.
        piece: the sizes of NumPy's pieces where values are computed in NumPy, None where the graph computes them.

    Raises:
        UserError: the budget is too small for a single candidate.
    """
    step = step_bytes(sizes, directions, in_numpy=piece is not None) if directions else 0
    fixed, candidate = step, graph_bytes(sizes, LIVE_WIDTHS, logit_blocks=3)
    if piece is not None:
        fixed += pieces_bytes(piece) + 8 * workers() * min(sizes.images * sizes.classes, CPU_LOGITS_AT_ONCE)
        candidate = numpy_candidate_bytes(sizes)
    check_budget(budget, fixed + candidate, "one candidate")
    given = budget or default_budget(on_cpu=on_cpu)
    derivatives = (given - step - derivative_block_bytes(sizes)) // derivative_bytes(sizes, on_cpu=on_cpu)
    return Chunks(max(1, (given - fixed) // candidate), max(1, derivatives))


def cut(count: int, most: int) -> list[slice]:
    """Cut a batch of so many candidates into chunks, as equal as possible, without a small rest at the end."""
    size = -(-count // max(1, -(-count // most))) if count else 1
    return [slice(start, min(start + size, count)) for start in range(0, count, size)] or [slice(0, 0)]


def default_budget(*, on_cpu: bool) -> int:
    """Return the bytes that a chunk may take where the user gives no memory budget."""
    return DEFAULT_BUDGET if on_cpu else GPU_DEFAULT_BUDGET


def check_budget(budget: int | None, needed: int, what: str) -> None:
    """Refuse a memory budget that is smaller than what is needed.

    Raises:
        UserError: with the least budget that works.
    """
    if budget and needed > budget:
        given = f"{budget // 10**6}MB" if budget >= 10**6 else f"{budget} bytes"
        raise UserError(f"memory-budget {given}: {what} needs {-(-needed // 10**6)}MB; raise it to that")


def graph_bytes(sizes: Sizes, widths: int, *, logit_blocks: int) -> int:
    """Return the bytes of a candidate in the graph: so many states of all its tokens, and so many blocks of logits."""
    entries = min(sizes.images * sizes.classes, LOGITS_AT_ONCE)
    return 4 * (widths * sizes.tokens * sizes.width + logit_blocks * entries)


def must_split_graph(sizes: Sizes, candidates: int, stages: int, budget: int) -> bool:
    """Return whether each stage has to be evaluated by itself where nothing else bounds what MLX holds.

    A GPU holds all arrays of a graph until its end, so a whole graph may be larger than the budget.
    """
    return candidates * stages * graph_bytes(sizes, GPU_LAYER_WIDTHS, logit_blocks=0) > budget


def derivative_bytes(sizes: Sizes, *, on_cpu: bool) -> int:
    """Return the bytes of one directional derivative, without those of `derivative_block_bytes`."""
    return graph_bytes(sizes, JVP_WIDTHS if on_cpu else GPU_JVP_WIDTHS, logit_blocks=6)


def derivative_block_bytes(sizes: Sizes) -> int:
    """Return the bytes inside an activation's derivative, which the CPU device computes block by block."""
    hidden = 4 * sizes.tokens * sizes.width  # entries inside an MLP
    return 4 * JVP_BLOCKS * min(BLOCK, hidden)


def numpy_candidate_bytes(sizes: Sizes) -> int:
    """Return the bytes of a candidate in NumPy: its class features, its context and its images' losses."""
    # three contexts: A w, its sum with p0, and one more while they are added
    entries = sizes.classes * sizes.features + 3 * sizes.context + sizes.images
    return 4 * entries + CPU_PIECE_OVERHEAD


def pieces_bytes(piece: PieceSizes) -> int:
    """Return the bytes of NumPy's pieces that run at once, whatever the number of candidates."""
    rows = max(piece.rows, piece.block) + piece.context * -(-piece.rows // piece.block)
    scores = piece.heads * (piece.block + 1 + piece.context)
    return 4 * workers() * rows * (CPU_WIDTHS * piece.width + piece.hidden + scores)


def curvature_images(images: int, classes: int, directions: int) -> int:
    """Return how many images the curvature of the linearised loss is computed from: all where they are few."""
    return min(images, max(CURVATURE_IMAGES, CURVATURE_SLOPES // (directions * classes)))


def spaced(images: int, count: int) -> np.ndarray:
    """Return the indices [count] of images that are spaced evenly through all of them."""
    return np.arange(count) * images // count


def step_bytes(sizes: Sizes, directions: int, *, in_numpy: bool) -> int:
    """Return the bytes of a step with the linearised loss, without its forward passes.

    They are the class features and their slopes along so many directions, blocks of the slopes of the logits, blocks of
    the logits, and derivatives by the class features.
    """
    classes, at_once = sizes.classes, workers() if in_numpy else 1
    all_slopes = directions * classes * curvature_images(sizes.images, classes, directions)
    block = max(CPU_SLOPES_AT_ONCE if in_numpy else SLOPES_AT_ONCE, directions * classes)
    slopes = min(at_once * block, all_slopes) * (1 if in_numpy else LIVE_SLOPES)
    logits = 3 * at_once * min(CPU_LOGITS_AT_ONCE if in_numpy else LOGITS_AT_ONCE, classes * sizes.images)
    copies = LIVE_FEATURES * (directions + 1) + (CPU_PARTS if in_numpy else 0) + 2 * at_once
    return 4 * (copies * classes * sizes.features + slopes + logits)
