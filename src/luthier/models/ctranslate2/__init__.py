"""Models in CTranslate2's format (faster-whisper), converted to Hugging Face folders."""
