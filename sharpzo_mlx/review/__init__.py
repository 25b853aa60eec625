"""What a person looks at next: images worth labelling, labels that look wrong, and copies; as records and as a page."""
