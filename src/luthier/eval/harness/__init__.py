"""Tasks written for EleutherAI's lm-evaluation-harness: its YAML files, prompts, order of shots, filters and scores.

The same task on the same model gets the same numbers, row by row; files that need code of their own are refused.
"""
