"""Image files become pixel arrays: decoding, orientation and the preprocessing that a checkpoint was trained with.

`preprocessor` holds the parameters, `decode` reads one file, `load` yields batches of prepared pixels.
"""
