"""The process, the network, optional packages and the sandbox."""
