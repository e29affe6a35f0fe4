"""Pictures and sounds in packs: the towers that read them, and where their features and positions enter a decoder."""
