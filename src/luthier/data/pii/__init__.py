"""Personal data in a data set: masks, tags, pseudonyms and their table, and their accuracy on labeled rows."""
