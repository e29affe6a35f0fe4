"""Types of the artifacts of Luthier's steps, with what `luthier show` prints of each."""
