"""Fine-tuning jobs: uploaded files, recipes written from job requests, and the runner that executes them in order."""
