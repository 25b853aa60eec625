"""A run as one self-contained HTML page with its plots."""
