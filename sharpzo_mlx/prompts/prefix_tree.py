"""Lay out the classes' suffixes in blocks in which the tokens that suffixes begin with in common stand once.

Each class adds its name, the words behind it and EOS to the shared context (SharpZO, arXiv 2506.20990, section 3). In
a causal tower two suffixes that begin alike have equal states up to the token where they differ, so the suffixes
form a prefix tree (trie) and each node is computed once. Nodes are packed into blocks of equal size. Attention within
a block is one dense product, and a mask leaves each token its own ancestors.

>>> layout = pack([(7, 8, 9), (7, 6, 9)])
>>> layout.nodes, layout.ids.tolist()
(5, [[7, 6, 9, 8, 9]])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

BLOCK = 48  # tokens: larger blocks multiply more masked pairs, smaller ones share fewer tokens and multiply slower
HIDDEN = -1e4  # added to the attention score of a token that is masked; half precision can hold it

Suffix = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """The places of all suffix tokens: B blocks of b tokens, in each of which at most E classes end.

    Attributes:
        ids: token ids [B, b]; 0 at unused places.
        depth: the number of tokens before each token in its suffix [B, b].
        mask: [B, b, b] float32: 0 where the column is the row or one of its ancestors, HIDDEN elsewhere.
        ends: the places of EOS within each block [B, E]; the first is repeated where fewer than E classes end.
        slot: the place of each class in the flattened `ends` [K].
        nodes: the number of tokens in use.
    """

    ids: np.ndarray
    depth: np.ndarray
    mask: np.ndarray
    ends: np.ndarray
    slot: np.ndarray
    nodes: int

    @property
    def end_mask(self) -> np.ndarray:
        """The rows of `mask` at the ends [B, E, b]."""
        return np.take_along_axis(self.mask, self.ends[:, :, None], axis=1)


def pack(suffixes: Sequence[Suffix], block: int = BLOCK) -> Layout:
    """Lay out the suffixes of K classes.

    Args:
        suffixes: K sequences of token ids, none empty; none begins with another unless they are equal.
        block: tokens of a block; where a suffix is longer, the blocks have that suffix's length.
    """
    tries = _fill_blocks(_make_tries(suffixes, block), max(block, *map(len, suffixes)))
    width = max(len(trie) for trie in tries)
    ids, depth = (np.zeros((len(tries), width), np.int64) for _ in range(2))
    mask = np.full((len(tries), width, width), HIDDEN, np.float32)
    mask[:, np.arange(width), np.arange(width)] = 0  # an unused place sees itself, so that its softmax is finite
    place: dict[Suffix, tuple[int, int]] = {}
    for number, trie in enumerate(tries):
        row = {prefix: index for index, prefix in enumerate(trie)}
        for prefix, index in row.items():
            ids[number, index], depth[number, index] = prefix[-1], len(prefix) - 1
            mask[number, index, [row[prefix[: n + 1]] for n in range(len(prefix))]] = 0
            place.setdefault(prefix, (number, index))
    ends, slot = _find_ends([place[tuple(suffix)] for suffix in suffixes], len(tries))
    return Layout(ids, depth, mask, ends, slot, sum(map(len, tries)))


def _make_tries(suffixes: Sequence[Suffix], block: int) -> list[list[Suffix]]:
    """Return a trie for each first token, split where it outgrows a block; each trie lists its nodes parents first."""
    tries = []
    for _, alike in groupby(sorted(set(map(tuple, suffixes))), key=lambda suffix: suffix[0]):
        nodes: dict[Suffix, None] = {}
        for suffix in alike:
            new = [suffix[:n] for n in range(1, len(suffix) + 1) if suffix[:n] not in nodes]
            if nodes and len(nodes) + len(new) > block:
                tries.append(list(nodes))
                nodes, new = {}, [suffix[:n] for n in range(1, len(suffix) + 1)]
            nodes |= dict.fromkeys(new)
        tries.append(list(nodes))
    return tries


def _fill_blocks(tries: list[list[Suffix]], block: int) -> list[list[Suffix]]:
    """Put whole tries into blocks: the largest first, each into the first block in which it fits."""
    blocks: list[list[Suffix]] = []
    for trie in sorted(tries, key=len, reverse=True):
        # a block holds a prefix once, so the parts of a split trie go to different blocks
        home = next((b for b in blocks if len(b) + len(trie) <= block and trie[0] not in b), None)
        if home is None:
            blocks.append(home := [])
        home += trie
    return blocks


def _find_ends(places: list[tuple[int, int]], blocks: int) -> tuple[np.ndarray, np.ndarray]:
    """Return `Layout.ends` and `Layout.slot` for the places (block, token) of the classes' EOS."""
    rows: list[list[int]] = [[] for _ in range(blocks)]
    slots = []
    for number, index in places:
        if index not in rows[number]:
            rows[number].append(index)
        slots.append((number, rows[number].index(index)))
    most = max(map(len, rows))
    ends = np.array([row + [row[0]] * (most - len(row)) for row in rows])
    return ends, np.array([number * most + column for number, column in slots])
