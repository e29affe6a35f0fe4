"""Training data: tokenized examples, the validation split and previews."""
