"""The loss L(w) of the training images as a function of the searched vector w, for many w at once.

`loss` has the cross-entropy and the accuracy, `backend` chooses the computation (MLX's lazy graph or NumPy), `chunks`
plans the memory, `objective` counts the queries, `linearised` models the loss near a point, `build` makes all of it
from a checkpoint and encoded images, and `fallback` tests whether the device's products are exact enough.
"""
