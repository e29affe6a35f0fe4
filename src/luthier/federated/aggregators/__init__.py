"""How the weights of sites become one, one file each."""
