"""The history of rows: the lineage of one row, and the differences of two versions."""
