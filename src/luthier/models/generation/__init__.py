"""Generate completions: the engine, its KV cache and sampling."""
