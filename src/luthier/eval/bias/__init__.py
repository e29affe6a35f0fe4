"""Items and statistics of the bias probes: sentences, and gaps between groups."""
