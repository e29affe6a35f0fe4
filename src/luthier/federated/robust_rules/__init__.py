"""Rules by which a sum bears sites that send anything, one file each."""
