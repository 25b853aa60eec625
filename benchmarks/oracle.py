"""Start the competitor: a process that computes L(w) in torch as the method's released code does.

A file passes the weights and the problem to it, so that both sides compute the same losses; `torch_oracle.py` explains
why it needs a separate process.

    with start_oracle(model, tokens, objective, w) as oracle:
        loss, seconds, processor_seconds = oracle(0)        # under w[0]
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import sharpzo_mlx  # noqa: F401  (before MLX: it loads OpenBLAS)

import mlx.core as mx  # isort: skip
import numpy as np
from mlx.utils import tree_flatten

from sharpzo_mlx.clip.model import CLIPModel
from sharpzo_mlx.objective.objective import Objective
from sharpzo_mlx.prompts.tokens import PromptTokens

# torch allocates every large array from the system and frees it at once, which takes a fifth of its time. These
# variables make the C library of Linux keep the memory; other systems ignore them.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 32), "MALLOC_TRIM_THRESHOLD_": str(1 << 34)}
KEEP_MEMORY |= {"MALLOC_TOP_PAD_": str(1 << 28)}
Ask = Callable[[int], tuple[float, float, float]]


@contextmanager
def start_oracle(
    model: CLIPModel,
    tokens: PromptTokens,
    objective: Objective,
    w: mx.array,
    *,
    threads: int | None = None,
    python: str = sys.executable,
) -> Iterator[Ask]:
    """Start the competitor on one problem and stop it at the end of the `with` block.

    Args:
        model: the text tower.
        tokens: the prompts.
        objective: the source of images, labels, space and logit scale.
        w: the points [P, d]; queries name them by number.
        threads: number of torch's threads; None for all cores.
        python: the interpreter that has torch.
    """
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) / "arrays.npz"
        np.savez(place, **export(model, tokens, objective, w))
        words = [python, str(Path(__file__).with_name("torch_oracle.py")), str(place)]
        words += [str(threads)] if threads else []
        with subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | KEEP_MEMORY
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            send, receive = process.stdin, process.stdout

            def ask(number: int) -> tuple[float, float, float]:
                print(number, file=send, flush=True)
                loss, seconds, processor = map(float, receive.readline().split())
                return loss, seconds, processor

            yield ask
            send.close()


def export(model: CLIPModel, tokens: PromptTokens, objective: Objective, w: mx.array) -> dict[str, np.ndarray]:
    """Return all arrays that the competitor needs, by name."""
    tower, config = model.text_model, model.text_model.config
    ids, length = [[tokens.sos, *tokens.prefix, *suffix] for suffix in tokens.suffixes], config.max_position_embeddings
    padded = mx.array([row + [config.pad_token_id] * (length - len(row)) for row in ids])
    problem = {
        "embedded": tower.embed(padded),
        "positions": tower.positions(length),
        "images": objective.embeddings,
        "labels": objective.labels.astype(mx.int64),
        "contexts": objective.space.contexts(w),
        "projection": model.text_projection.weight,
        "projection_bias": model.text_projection.get("bias", mx.zeros(model.config.projection_dim)),
    }
    problem |= {f"final_layer_norm.{name}": x for name, x in tree_flatten(tower.final_layer_norm.parameters())}
    problem |= {f"layers.{name}": x for name, x in tree_flatten([layer.parameters() for layer in tower.encoder.layers])}
    ends = [length - 1 if config.read_at_the_end else len(row) - 1 for row in ids]
    numbers = {"eos": ends, "scale": objective.logit_scale, "causal": config.causal, "act": config.hidden_act}
    numbers |= {"eps": config.layer_norm_eps}
    numbers |= {"heads": tower.config.num_attention_heads, "layers": len(tower.encoder.layers)}
    return {name: np.array(x) for name, x in (problem | numbers).items()}
