"""Tasks of EleutherAI's lm-evaluation-harness, run by the library itself; its `LM` class stands over ours."""
