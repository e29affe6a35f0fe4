"""Questions to people about items, one file each."""
