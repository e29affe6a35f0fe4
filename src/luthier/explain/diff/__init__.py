"""Model diff: changes of distributions, hidden states, weights and answers by tuning."""
