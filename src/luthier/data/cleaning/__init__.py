"""Text-cleaning rules that operators and sources share."""
