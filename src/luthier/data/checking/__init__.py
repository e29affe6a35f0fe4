"""What the checks of a data set share, and how they are run."""
