"""Forms in which a data set goes out; one file a form."""
