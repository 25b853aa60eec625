"""Encode image files into Features: the image tower sees each image once, and a cache on disk keeps its row.

Features are rows [N, D] of unit norm with labels; all later folders see images in this form only.
"""
