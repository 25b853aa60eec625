"""What SharpZO is compared with: every method of `compare`, each behind the one interface of `method`."""
