"""Tasks of EleutherAI's lm-evaluation-harness: its YAML files, prompts, few-shot order, filters and scores.

The same task on the same model gives the same numbers, row by row. Files that need their own code are refused.
"""
