"""The facts of a report, part by part."""
