"""Learning curves and what more rows would bring."""
