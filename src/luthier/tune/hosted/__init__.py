"""Fine-tuning by a provider: upload rows, start and follow a job, and use what it made."""
