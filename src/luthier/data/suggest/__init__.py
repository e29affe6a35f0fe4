"""What `luthier new` suggests for the rows of a source."""
