"""Handle the machine that the program runs on: BLAS, device, memory, threads, precision, units of size and time.

`startup` must run before MLX is first imported; the package's `__init__` calls it. Nothing here knows of images or
models.
"""
