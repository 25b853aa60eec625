"""Where the classes' suffixes stand in a batch: tokens that names share once, all of them in equal blocks.

Behind the shared context every class adds its name, a full stop and EOS (SharpZO, arXiv 2506.20990, section 3). In
a causal tower two names that begin alike have equal states up to where they part, so the suffixes form a trie and
each of its nodes is computed once. Nodes are packed in blocks of equal size; within a block attention is one dense
product, and a mask leaves every token its own ancestors.

>>> layout = pack([(7, 8, 9), (7, 6, 9)])
>>> layout.nodes, layout.ids.tolist()
(5, [[7, 6, 9, 8, 9]])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

BLOCK = 48  # tokens: larger blocks multiply more masked pairs, smaller ones share less and multiply worse
HIDDEN = -1e4  # what is added to the score of a token that must not be seen; half precision can hold it

Suffix = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """The places of all suffix tokens: B blocks of b tokens, up to E classes that end in one block."""

    ids: np.ndarray  # [B, b] token ids; 0 where a block is not full
    depth: np.ndarray  # [B, b] tokens before it in its suffix
    mask: np.ndarray  # [B, b, b] float32, 0 where the column is the row or one of its ancestors, else HIDDEN
    ends: np.ndarray  # [B, E] the EOS places within the block, the first repeated where fewer classes end there
    slot: np.ndarray  # [K] where in the flattened `ends` each class is
    nodes: int  # tokens in use

    @property
    def end_mask(self) -> np.ndarray:
        """The rows of `mask` at the ends: [B, E, b]."""
        return np.take_along_axis(self.mask, self.ends[:, :, None], axis=1)


def pack(suffixes: Sequence[Suffix], block: int = BLOCK) -> Layout:
    """Lay out the suffixes of K classes.

    Args:
        suffixes: token ids of each, at least one; none begins another unless they are equal.
        block: tokens a block may hold; a longer suffix gets a block of its own length.
    """
    tries = _fill(_tries(suffixes, block), max(block, *map(len, suffixes)))
    width = max(len(trie) for trie in tries)
    ids, depth = (np.zeros((len(tries), width), np.int64) for _ in range(2))
    mask = np.full((len(tries), width, width), HIDDEN, np.float32)
    mask[:, np.arange(width), np.arange(width)] = 0  # an unused place sees itself
    place: dict[Suffix, tuple[int, int]] = {}
    for number, trie in enumerate(tries):
        row = {prefix: index for index, prefix in enumerate(trie)}
        for prefix, index in row.items():
            ids[number, index], depth[number, index] = prefix[-1], len(prefix) - 1
            mask[number, index, [row[prefix[: n + 1]] for n in range(len(prefix))]] = 0
            place.setdefault(prefix, (number, index))
    ends, slot = _ends([place[tuple(suffix)] for suffix in suffixes], len(tries))
    return Layout(ids, depth, mask, ends, slot, sum(map(len, tries)))


def _tries(suffixes: Sequence[Suffix], block: int) -> list[list[Suffix]]:
    """One trie for the suffixes of one first token, or several where they outgrow a block; nodes in depth order."""
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


def _fill(tries: list[list[Suffix]], block: int) -> list[list[Suffix]]:
    """Put whole tries together in blocks: the largest first, each in the first block that has room."""
    blocks: list[list[Suffix]] = []
    for trie in sorted(tries, key=len, reverse=True):
        # a block holds a prefix once: what was parted for its size stays apart
        home = next((b for b in blocks if len(b) + len(trie) <= block and trie[0] not in b), None)
        if home is None:
            blocks.append(home := [])
        home += trie
    return blocks


def _ends(places: list[tuple[int, int]], blocks: int) -> tuple[np.ndarray, np.ndarray]:
    rows: list[list[int]] = [[] for _ in range(blocks)]
    slots = []
    for number, index in places:
        if index not in rows[number]:
            rows[number].append(index)
        slots.append((number, rows[number].index(index)))
    most = max(map(len, rows))
    ends = np.array([row + [row[0]] * (most - len(row)) for row in rows])
    return ends, np.array([number * most + column for number, column in slots])
