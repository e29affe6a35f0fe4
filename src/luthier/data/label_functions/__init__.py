"""Label functions: cheap rules that vote for a label, one file each."""
