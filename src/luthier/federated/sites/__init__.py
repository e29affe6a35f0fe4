"""A site: its policy, its log, and what answers a coordinator."""
