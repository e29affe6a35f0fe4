"""Ways to choose which rows people should label next; one file a way."""
