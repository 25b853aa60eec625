"""The Hugging Face hub: files of models and runs are downloaded by name, into the hub's own cache."""
