"""Recipe → plan → run: what a recipe says, what is cached, what it will cost, and the making of it."""
