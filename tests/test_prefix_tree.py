"""The packed trie: every suffix can be read back through its mask, and what is shared is there once."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sharpzo_mlx.prompts.prefix_tree import Layout, pack

EOS = 99
names = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), min_size=1, max_size=30)


def read_back(layout: Layout) -> list[tuple[int, ...]]:
    """The suffix of each class: the tokens that its EOS sees, in the order of their depth."""
    found = []
    for slot in layout.slot:
        block, column = divmod(int(slot), layout.ends.shape[1])
        seen = np.flatnonzero(layout.mask[block, layout.ends[block, column]] == 0)
        seen = seen[np.argsort(layout.depth[block, seen])]
        assert layout.depth[block, seen].tolist() == list(range(len(seen)))
        found.append(tuple(layout.ids[block, seen].tolist()))
    return found


@settings(max_examples=60, deadline=None)
@given(names=names, block=st.integers(1, 40))
def test_every_suffix_is_seen_by_its_end(names: list[list[int]], block: int) -> None:
    suffixes = [(*name, EOS) for name in names]
    layout = pack(suffixes, block)
    assert read_back(layout) == suffixes
    assert layout.ids.shape[1] <= max(block, *map(len, suffixes))


def test_a_common_beginning_is_there_once() -> None:
    assert pack([(1, 2, 3, EOS), (1, 2, 4, EOS), (1, EOS)]).nodes == 7


def test_blocks_are_nearly_full() -> None:
    draw = np.random.default_rng(0)
    layout = pack([(*draw.integers(0, 40000, draw.integers(1, 5)).tolist(), EOS) for _ in range(500)])
    assert layout.ids.size < 1.03 * layout.nodes
