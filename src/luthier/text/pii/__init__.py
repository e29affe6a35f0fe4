"""Personal data in texts: what it is and where it is.

Every pattern begins at a place where its first character cannot continue a longer run, and every repetition is
bounded, so that no text makes the search slow. What a pattern proposes, a check confirms: Luhn for cards, modulo 97
for IBANs, each country's checksum for national numbers, shape and context for the rest.
"""
