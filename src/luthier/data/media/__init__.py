"""What is found in pictures and sounds of rows, and what is put in their place."""
