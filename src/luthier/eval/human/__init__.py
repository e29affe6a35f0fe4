"""People's judgments: what they are asked, blind; what they said; and what it comes to."""
