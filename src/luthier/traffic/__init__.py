"""What passes between people and a served model: traces, feedback, and the logs that keep them."""
