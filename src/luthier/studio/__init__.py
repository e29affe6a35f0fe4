"""The studio: server-rendered pages over `commands`, for people who want no terminal. No logic stands here."""
