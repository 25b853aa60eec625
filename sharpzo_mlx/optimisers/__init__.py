"""Optimisers of plain vectors: they get losses and return points, and know nothing of CLIP, images or files.

`cma` (stage 1) draws candidates with `ask` and learns from their losses with `tell`; `cma_constants` computes its
constants, `sharpness` perturbs its candidates (SharpZO, arXiv 2506.20990, section 3.1). Stage 2 is
`zo_sgd` or `gauss_newton` (with `trust_region`), chosen in `stage2`, inside the masks of `masks` and `pruning` (section
3.2). `gradients` estimates gradients from forward passes alone; `spsa` is a descent of `compare`; `params` holds the
settings. Every State is a frozen dataclass of arrays, which a run can save.

>>> from sharpzo_mlx.optimisers import cma
>>> cma.make_params(8, 10).population
10
"""
