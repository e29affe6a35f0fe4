"""From somebody's file to rows with a meaning, and to a recipe that fits them."""
