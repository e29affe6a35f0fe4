"""Forms of human evaluation (Likert scale, pairs, rubric, spans), one file each."""
