"""What helps to decide with a classifier: the smallest edits that flip a label, rules that stand for it, label sets."""
