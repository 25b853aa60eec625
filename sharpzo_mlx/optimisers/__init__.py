"""Optimisers on plain vectors: losses come in, points go out; nothing here knows of CLIP, images or files.

`cma` (stage 1) and `sparse_zo` (stage 2) are ask / tell; `gradients` holds the forward-only estimators that
both use, `sharpness` the shift of stage 1 (SharpZO section 3.1), `pruning` the mask of stage 2 (section 3.2).
Every State is a frozen dataclass of arrays alone, so a checkpoint can save and restore any of them alike.

>>> from sharpzo_mlx.optimisers import cma
>>> cma.cma_params(8, 10).population
10
"""
