"""What tools for annotators write; one file a format."""
