"""Models: find, load, describe, merge, quantize and export them, and compute log-probabilities and completions."""
