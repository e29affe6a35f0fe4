"""What happened to rows: one row's story, two versions side by side."""
