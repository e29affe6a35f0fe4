"""Near copies across sites: no site trains on what another holds out, and neither sees the other's rows."""
