"""Models in the format of CTranslate2 (faster-whisper's), read into Hugging Face folders."""
