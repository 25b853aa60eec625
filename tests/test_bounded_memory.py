"""On a GPU MLX itself bounds the memory of a search, so that graphs stay whole; here the GPU is pretended."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from small_objective import make_objective

from sharpzo_mlx.clip import activations
from sharpzo_mlx.clip.activations import Activation, activation
from sharpzo_mlx.runtime import limits

MIB = 1 << 20


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let MLX say that its default device is a GPU, whose kernels cannot be compiled here."""
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu))
    monkeypatch.setattr(activations, "fuse", lambda function: function)
    before = mx.get_memory_limit()
    yield
    assert mx.get_memory_limit() == before


def test_the_cpu_needs_no_bound() -> None:
    before = mx.get_memory_limit()
    with limits.bounded(MIB):
        assert mx.get_memory_limit() == before
        assert not limits.is_bounded()


@pytest.mark.usefixtures("gpu")
def test_the_limit_is_what_mlx_holds_and_the_budget() -> None:
    before = mx.get_memory_limit()
    with limits.bounded(3 * MIB):
        assert limits.is_bounded()
        assert mx.get_memory_limit() == pytest.approx(mx.get_active_memory() + 3 * MIB, abs=MIB)
        within = mx.get_memory_limit()
        with limits.bounded(500 * MIB):
            assert mx.get_memory_limit() == within
        assert limits.is_bounded()
    assert not limits.is_bounded()
    assert mx.get_memory_limit() == before


@pytest.mark.usefixtures("gpu")
def test_a_limit_of_the_user_stays_below() -> None:
    own = mx.get_active_memory() + MIB
    before = mx.set_memory_limit(own)
    try:
        with limits.bounded(100 * MIB):
            assert mx.get_memory_limit() == own
        assert mx.get_memory_limit() == own
    finally:
        mx.set_memory_limit(before)


@pytest.mark.usefixtures("gpu")
def test_the_limit_is_given_back_after_an_error() -> None:
    before = mx.get_memory_limit()
    with pytest.raises(ZeroDivisionError), limits.bounded(MIB):
        raise ZeroDivisionError
    assert mx.get_memory_limit() == before


@pytest.mark.usefixtures("gpu")
def test_threads_add_up_and_leave_in_any_order() -> None:
    before, both = mx.get_memory_limit(), threading.Barrier(2, timeout=30)
    seen: dict[str, int] = {}

    def work(name: str, budget: int) -> None:
        with limits.bounded(budget):
            both.wait()
            seen[name] = mx.get_memory_limit()
            both.wait()
            if name == "second":
                both.wait()  # the first has left
                seen["alone"] = mx.get_memory_limit()
        if name == "first":
            both.wait()

    threads = [threading.Thread(target=work, args=given) for given in (("first", 4 * MIB), ("second", 8 * MIB))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen["first"] == seen["second"] == seen["alone"] + 4 * MIB
    assert mx.get_memory_limit() == before


@pytest.mark.usefixtures("gpu")
def test_a_bounded_graph_stays_whole_and_chunks_are_not_waited_for(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same numbers come out as from layers that are evaluated one by one."""
    split = make_objective(tiny_model, backend="graph", memory_budget=2 * MIB)
    w = mx.random.normal((3 * split.chunk, 16), key=mx.random.key(3))
    plain = np.array(split.losses(w))
    waits: list[int] = []
    evaluate = mx.eval

    def counted(*given: mx.array) -> None:
        waits.append(1)
        evaluate(*given)

    monkeypatch.setattr(mx, "eval", counted)
    with limits.bounded(2 * MIB):
        losses = split.losses(w)
        assert not waits
        np.testing.assert_array_equal(losses, plain)
    split.losses(w)
    assert len(waits) > 3 * len(split.text.stages())


@pytest.mark.usefixtures("gpu")
def test_mlx_holds_less_inside_the_bound(tiny_model: Path) -> None:
    """MLX keeps to its limit on the CPU too, once it is set."""
    objective = make_objective(tiny_model, backend="graph", memory_budget=64 * MIB)
    w = mx.random.normal((objective.chunk, 16), key=mx.random.key(3))
    mx.eval(w, objective.losses(w[:1]))
    peaks = []
    for budget in (4 * MIB, 1000 * MIB):
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        with limits.bounded(budget):
            mx.eval(objective.losses(w))
        peaks.append(mx.get_peak_memory() - before)
    assert peaks[0] < peaks[1]


@pytest.mark.parametrize("name", ["quick_gelu", "gelu", "gelu_pytorch_tanh"])
def test_an_activation_on_a_gpu_is_one_compiled_function(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling itself is left out here; values, derivatives and gradients are those of the plain function."""
    x = mx.random.normal((3, 40), key=mx.random.key(0)) * 4
    plain = activation(name)(x)
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu))
    fused: list[int] = []

    def fuse(function: object) -> object:
        fused.append(1)
        return function

    monkeypatch.setattr(activations, "fuse", fuse)
    found = activation(name)(x)
    assert fused == [1]
    np.testing.assert_allclose(found, plain, atol=4e-6)
    _, (slope,) = mx.jvp(activation(name), [x], [mx.ones_like(x)])
    np.testing.assert_allclose(slope, mx.grad(lambda x: mx.sum(activation(name)(x)))(x), atol=1e-6)


@pytest.mark.skipif(not shutil.which("g++"), reason="MLX compiles kernels of the CPU with g++")
@pytest.mark.parametrize("name", ["quick_gelu", "gelu", "gelu_pytorch_tanh"])
def test_a_compiled_activation_has_the_same_values(name: str) -> None:
    """Any shape, one compilation; derivatives too."""
    compiled: list[Activation] = []
    fuse = activations.fuse

    def keep(function: Activation) -> Activation:
        compiled.append(fuse(function))
        return function

    x = mx.random.normal((3, 40), key=mx.random.key(0)) * 4
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu))
        patch.setattr(activations, "fuse", keep)
        plain, (slope,) = mx.jvp(activation(name), [x], [mx.ones_like(x)])
    for shaped in (x, x.reshape(2, 5, 12)):
        np.testing.assert_allclose(compiled[0](shaped).reshape(-1), plain[0].reshape(-1), atol=1e-6)
    _, (found,) = mx.jvp(compiled[0], [x], [mx.ones_like(x)])
    np.testing.assert_allclose(found, slope, atol=1e-6)
