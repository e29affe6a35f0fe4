"""Serving: engines that answer, and the gateway that speaks OpenAI's protocol in front of them."""
