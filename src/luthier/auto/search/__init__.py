"""The search over techniques, settings and data options under a budget of work."""
