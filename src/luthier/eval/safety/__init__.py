"""Items of the safety probes: harmful and harmless requests, jailbreaks, injections and openings."""
