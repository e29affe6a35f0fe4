"""Ways of merging tuned models; one file a merger."""
