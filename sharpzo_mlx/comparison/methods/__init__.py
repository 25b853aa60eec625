"""The methods of `compare`, each behind the interface in `method` and listed by name in `registry`."""
