"""NumPy's products are made where their flags are ignored, for some Macs raise all of them (runtime/products.py)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from bowl_search import Bowl, accuracy_of, config, finish

from sharpzo_mlx.heads.closed_form import Linear
from sharpzo_mlx.runtime.products import host_products
from sharpzo_mlx.tuning.search import Search

PACKAGE = Path(__file__).resolve().parents[1] / "sharpzo_mlx"
FOLDERS = ("clip", "comparison", "demo", "features", "heads", "objective", "prompts", "report", "runtime", "tuning")
MIXED = {  # files that multiply with MLX too -> their products in NumPy
    "clip/cpu_layers.py": 3, "clip/cpu_pool.py": 3, "comparison/methods/guarded_heads.py": 1,
    "heads/fit.py": 3, "heads/guard.py": 1, "objective/loss.py": 1, "prompts/shared_prefix_cpu.py": 6,
    "runtime/precision.py": 2,
}  # fmt: skip


def test_flags_are_ignored_in_a_block_and_in_every_call_of_a_function() -> None:
    huge, nothing = np.full((2, 2), np.float32(3e38)), np.zeros((2, 2), np.float32)

    @host_products()
    def multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        product: np.ndarray = a @ b
        return product

    with pytest.warns(RuntimeWarning, match="overflow encountered in matmul"):
        huge @ huge
    for _ in range(2):
        assert np.isinf(multiply(huge, huge)).all()
        assert np.isnan(multiply(np.full((2, 2), np.inf, np.float32), nothing)).all()
    with host_products():
        assert np.isinf(huge @ huge).all()
    assert np.geterr()["over"] == "warn"


def test_a_classifier_multiplies_without_warnings() -> None:
    linear = Linear(np.full((2, 3), 1e300), np.zeros(2))
    assert np.isinf(linear.logits(np.full((1, 3), 1e300))).all()


@pytest.mark.parametrize("name", ["zo-sgd", "gauss-newton"])
def test_optimisers_step_where_flags_are_ignored(name: str) -> None:
    """They know vectors alone and import no helper: who calls them ignores the flags."""
    seen: list[str] = []

    class Watching(Bowl):
        def image_losses(self, w: mx.array) -> mx.array:
            seen.append(np.geterr()["invalid"])
            return super().image_losses(w)

    changes: dict[str, Any] = {"generations": 0, "steps": 3, "stage2.optimiser": name, "pruning.keep": 1.0}
    finish(search := Search(config(**changes), Watching(), accuracy_of))
    search.try_step()
    assert set(seen) <= {"ignore"}
    assert seen or name == "gauss-newton"


def products(path: Path) -> Iterator[tuple[int, bool]]:
    """The line of each product in a file, and whether it stands where the flags are ignored."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        if _is_product(node):
            above, place = [], node
            while place in parents:
                place = parents[place]
                above.append(place)
            yield node.lineno, any(map(_ignores_flags, above))  # type: ignore[attr-defined]


def _is_product(node: ast.AST) -> bool:
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, ast.MatMult)
    named = node.func if isinstance(node, ast.Call) else None
    return isinstance(named, ast.Attribute) and named.attr == "matmul" and ast.unparse(named.value) == "np"


def _ignores_flags(node: ast.AST) -> bool:
    given: list[ast.expr] = []
    if isinstance(node, ast.FunctionDef):
        given = node.decorator_list
    elif isinstance(node, ast.With):
        given = [item.context_expr for item in node.items]
    return "host_products()" in map(ast.unparse, given)


def host_files() -> list[str]:
    """Files with products that import NumPy and not MLX, but for the optimisers."""
    found = []
    for folder in (
        "clip",
        "comparison",
        "demo",
        "features",
        "heads",
        "objective",
        "prompts",
        "report",
        "runtime",
        "tuning",
    ):
        for path in sorted((PACKAGE / folder).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            if "import numpy" in text and "import mlx" not in text and any(products(path)):
                found.append(path.relative_to(PACKAGE).as_posix())
    return found


@pytest.mark.parametrize("file", host_files())
def test_files_of_numpy_alone_ignore_the_flags_of_all_products(file: str) -> None:
    assert [line for line, ignored in products(PACKAGE / file) if not ignored] == []


def test_the_files_of_numpy_alone_are_found() -> None:
    assert {"heads/gaussians.py", "heads/closed_form.py", "clip/cpu_patches.py"} <= set(host_files())


@pytest.mark.parametrize("file", list(MIXED))
def test_files_of_both_ignore_the_flags_of_their_host_products(file: str) -> None:
    assert sum(ignored for _, ignored in products(PACKAGE / file)) == MIXED[file]
