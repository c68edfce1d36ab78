"""Text to token rows to batches: vocabulary, documents, two-segment rows, and the order they are read in."""
