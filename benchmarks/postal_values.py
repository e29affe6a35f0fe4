"""Draws postal addresses of fifty countries, from the streets, towns and orders in the file of the same name."""

from __future__ import annotations

import random
import tomllib
from pathlib import Path
from typing import Any

WEST, LATIN, SCRIPTS = "countries with rules", "other countries, Latin letters", "other scripts"
COUNTRIES: dict[str, dict[str, Any]] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))


def filled(draw: random.Random, shape: str) -> str:
    """A shape whose `%` are digits, the first of a number none that is 0."""
    made = ""
    for char in shape:
        digit = str(draw.randint(0 if made[-1:].isdigit() else 1, 9))
        made += digit if char == "%" else char
    return made


def value(draw: random.Random, name: str) -> str:
    """One address of this country."""
    country = COUNTRIES[name]
    town, code, region = (*draw.choice(country["towns"]).split("|"), "", "")[:3]
    layout = filled(draw, draw.choice(country["layouts"]))
    street, number = draw.choice(country["streets"]), draw.choice(country["numbers"])
    if country["language"] == "pl" and draw.random() < 0.3:
        street = street.removeprefix("ul. ")
    made = layout.format(n=filled(draw, number), s=street, t=town, c=filled(draw, code), r=region)
    return made.strip(" ,-").removesuffix("PIN").strip(" ,-")
