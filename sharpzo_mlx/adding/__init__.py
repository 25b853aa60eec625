"""Add images and classes to a finished run, without a new search."""
