"""Review of production output: queues of requests, verdicts on them, unbiased figures, and the next round."""
