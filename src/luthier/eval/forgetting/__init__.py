"""The standing set of plain questions of the forgetting probe."""
