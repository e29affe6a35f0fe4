"""Decision support for classifiers: counterfactual edits, surrogate rules, and label sets."""
