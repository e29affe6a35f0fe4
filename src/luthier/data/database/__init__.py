"""Reading a database: where it is, what is read of it, in which order, and how its contents are told apart."""
