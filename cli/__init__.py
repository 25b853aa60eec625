"""The command line: words in, words out. No numbers are made here; one file per command.

Imported as `sharpzo_mlx.cli`. Commands are loaded when they are called, so that `sharpzo-mlx --help` starts
without MLX, NumPy or rich; progress is drawn here from the records that the library yields.
"""
