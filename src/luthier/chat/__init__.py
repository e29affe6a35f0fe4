"""Messages, chat templates and tokenizers: from a conversation to token ids."""
