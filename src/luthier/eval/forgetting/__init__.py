"""The standing set of plain questions by which it is told what a model forgot while it was tuned."""
