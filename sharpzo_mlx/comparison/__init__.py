"""Compare methods with each other: the same splits, the same features and the same query budget for all.

`runner` is the entry, `methods` holds every method behind one interface, `results` keeps what was measured.
"""
