"""Messages and the one id-maker: the same function turns messages into token ids, spans and labels everywhere."""
