"""Sharing on the Hugging Face hub: a run or a model is packed into a parcel, checked, and sent in one commit.

Loading back is not here: `sharpzo_mlx.hub` loads runs by name, `sharpzo_mlx.convert` models.
"""
