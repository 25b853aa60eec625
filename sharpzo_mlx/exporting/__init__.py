"""A tuned classifier for other programs: an ONNX graph, plain files, or a page for the browser.

>>> import sharpzo_mlx as sz
>>> sz.export("runs/photo-m-0", "onnx", "photo.onnx")  # doctest: +SKIP
"""
