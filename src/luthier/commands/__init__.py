"""Use cases of the commands, for the command line, the API and Python."""
