"""What probes of safety ask: requests, look-alikes, attacks and openings of our own writing."""
