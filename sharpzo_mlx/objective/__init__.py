"""The loss L(w) of the training images as a function of the searched vector w, for many w at once.

`build` makes an Objective from a checkpoint and encoded images; `chunks` plans its memory.
"""
