"""Use a run: accuracy on folders of images beside zero-shot, and labels for single images."""
