"""The parts of a model that stay at each site, one file each."""
