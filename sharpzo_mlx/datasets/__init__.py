"""Read folders of images as data sets: list the files, name the classes, draw splits, match another folder's classes.

`folder` lists a folder, `names` names its classes, `splits` draws training, validation and test images,
`evaluation_sets` relates another folder to the classes of a run. Import from these modules; nothing is re-exported.

>>> from sharpzo_mlx.datasets.splits import draw_split
"""
