"""The types of artifact that Luthier's own steps make, each with what `luthier show` prints of it."""
