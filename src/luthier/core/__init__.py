"""The ground floor: components, artifacts, the store, steps, the ledger, events and errors."""
