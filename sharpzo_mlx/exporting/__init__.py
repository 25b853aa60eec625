"""A tuned classifier for other programs: an ONNX graph, a Core ML package, plain files, or a page.

>>> import sharpzo_mlx as sz
>>> sz.export("runs/photo-m-0", "onnx", "photo.onnx")  # doctest: +SKIP
"""
