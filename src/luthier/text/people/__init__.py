"""Words that name groups of people in English texts, and the same text about somebody of another group."""
