"""Human evaluation: blind questions, ratings and results."""
