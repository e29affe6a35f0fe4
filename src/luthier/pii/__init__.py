"""Personal data in texts: find its kinds and spans.

Every pattern begins where its first character cannot continue a longer run, and every repetition is bounded, so the
search is linear in the text. A pattern finds a candidate and a check confirms it: Luhn for cards, modulo 97 for IBANs,
each country's checksum for national numbers, format and context for the rest.
"""
