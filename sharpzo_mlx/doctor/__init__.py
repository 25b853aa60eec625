"""Describe this machine, say what is wrong with its setup, and try on it what could only be read or simulated before.

`setup.CHECKS` are the lines of `sharpzo-mlx doctor`. `checklist.STEPS` are the steps of `sharpzo-mlx doctor --full`,
whose results `report.py` writes into one file without private names.

>>> examine(check_python).words  # doctest: +SKIP
'3.12.3, NumPy 2.3.1'
"""
