"""What probes of bias ask and how they count: sentences of our own writing, and gaps between groups."""
