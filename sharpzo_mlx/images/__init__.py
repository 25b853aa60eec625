"""Turn image files into the pixel arrays that a checkpoint was trained with.

`preprocessor` holds the parameters, `decode` reads one file, and `load` yields batches of prepared pixels;
`views` yields batches of augmented views.
"""
