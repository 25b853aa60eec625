"""One self-contained HTML page about a run: what it reached, what changed, and its plots; and how numbers read."""
