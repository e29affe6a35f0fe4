"""Rules that decide a label from several judgments; one file a rule."""
