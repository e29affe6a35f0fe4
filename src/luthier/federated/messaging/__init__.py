"""Messages between a coordinator and its sites, their keys, and where they wait."""
