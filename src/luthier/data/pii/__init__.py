"""What becomes of personal data in a data set: masks, tags, pseudonyms, their table, and proof on labelled rows."""
