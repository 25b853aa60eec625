"""The workflow of `tune`: draw images, encode them, search in two stages, save the run as it proceeds.

`pipeline` is the entry, `search` runs both stages, `budget` does the arithmetic of queries and seconds.
"""
