"""Rules about texts that operators and sources share."""
