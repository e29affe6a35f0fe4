"""Database sources: the address, the selected columns and rows, their order, and a digest of the contents."""
