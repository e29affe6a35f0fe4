"""Images and audio in packs: the encoders that read them, and where their features and positions enter a decoder."""
