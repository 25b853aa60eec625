"""CLIP in MLX: configuration, tokenizer, both towers, checkpoint folders.

The network's attribute tree is the checkpoint's key tree, so loading renames and transposes nothing. Nothing is
re-exported here, so that `import sharpzo_mlx.clip` stays light.

>>> from sharpzo_mlx.clip.checkpoint import load_model
"""
