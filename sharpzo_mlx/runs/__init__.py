"""A tuning run on disk: its record, its prompt, the log of its steps, and the checkpoint that it continues from."""
