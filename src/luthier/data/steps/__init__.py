"""The steps of the data room."""
