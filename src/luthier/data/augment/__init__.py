"""Making rows out of training rows: who is asked for what, what is refused, and the books of both."""
