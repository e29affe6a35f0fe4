"""Training data attribution: which training rows a model learned an answer from; methods, engines and their
verification by retraining.
"""
