"""Image files become Features: the image tower encodes each image once, and a cache on disk keeps the result.

Features are rows [N, D] of unit norm with labels; everything after this folder sees images only in this form.
"""
