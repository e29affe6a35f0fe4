"""Learning from what the model itself writes: questions are answered, answers judged, judged answers become rows."""
