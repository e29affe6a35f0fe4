"""The foundation of all packages: components, artifacts, the store, steps, the ledger, events and errors."""
