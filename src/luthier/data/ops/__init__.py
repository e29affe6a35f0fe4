"""What is done to rows; one file an operator."""
