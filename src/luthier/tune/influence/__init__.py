"""Which training rows taught an answer: methods, engines and their proof by retraining."""
