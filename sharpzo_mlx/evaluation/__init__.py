"""Use a run: accuracy on folders of images beside zero-shot, labels for single images, and the metrics of both."""
