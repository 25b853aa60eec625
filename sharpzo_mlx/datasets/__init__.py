"""Image folders as data sets: what is in them, how they are split, and which of their classes were tuned.

`folder` lists, `names` names the classes, `splits` draws, `matching` relates another folder to a run's classes.
Nothing is re-exported here.

>>> from sharpzo_mlx.datasets.splits import draw_split
"""
