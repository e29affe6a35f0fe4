"""What federated tuning costs, and what it gives: each module measures some of the figures that `__main__` lists."""
