"""How right the data room is, one module a part; `benchmarks/data_quality.py` runs them."""
