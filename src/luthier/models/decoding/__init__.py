"""How a model goes on writing: what is asked, where its keys and values lie, and how it is read token by token."""
