"""The step that tunes over sites."""
