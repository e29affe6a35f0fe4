"""People's answers to questions about items: the questions, the queue of items, answers, agreement."""
