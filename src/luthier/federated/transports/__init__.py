"""How messages between a coordinator and its sites travel, one file each."""
