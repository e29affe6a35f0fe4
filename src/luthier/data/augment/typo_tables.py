"""Tables of typical errors: neighboring keys, OCR confusions, words that sound alike."""

from __future__ import annotations

from functools import cache
from math import hypot
from typing import Literal

Layout = Literal["qwerty", "qwertz", "azerty"]
ROWS: dict[Layout, tuple[str, str, str]] = {
    "qwerty": ("qwertyuiop", "asdfghjkl", "zxcvbnm"),
    "qwertz": ("qwertzuiopü", "asdfghjklöä", "yxcvbnm"),
    "azerty": ("azertyuiop", "qsdfghjklm", "wxcvbn"),
}
SHIFTS = (0.0, 0.25, 0.75)
"""How far each row stands to the right."""
REACH = 1.3


@cache
def neighbor_keys(layout: Layout) -> dict[str, str]:
    """The letters around each letter, nearest first."""
    coordinates = {
        key: (SHIFTS[row] + column, float(row))
        for row, keys in enumerate(ROWS[layout])
        for column, key in enumerate(keys)
    }
    found: dict[str, str] = {}
    for key, (x, y) in coordinates.items():
        apart = {other: hypot(x - there[0], y - there[1]) for other, there in coordinates.items() if other != key}
        found[key] = "".join(sorted((other for other in apart if apart[other] <= REACH), key=lambda o: (apart[o], o)))
    return found


OCR: dict[str, tuple[str, ...]] = {
    "rn": ("m",), "m": ("rn",), "cl": ("d",), "d": ("cl",), "vv": ("w",), "w": ("vv",), "nn": ("m",),
    "li": ("h",), "ri": ("n",), "ni": ("m",), "fi": ("h",), "in": ("m",), "ii": ("u",), "lc": ("k",),
    "l": ("I", "1", "i"), "I": ("l", "1"), "i": ("l", "j"), "j": ("i",), "O": ("0", "Q", "D"), "o": ("0", "c"),
    "S": ("5",), "s": ("5",), "B": ("8", "R"), "Z": ("2",), "z": ("2",), "G": ("6", "C"), "g": ("9", "q"),
    "q": ("g", "9"), "e": ("c",), "c": ("e",), "h": ("b",), "b": ("h", "6"), "n": ("u", "ri"), "u": ("n", "ii"),
    "t": ("f",), "f": ("t",), "a": ("o",), "v": ("y",), "y": ("v",), "E": ("F",), "F": ("P",), "U": ("V",),
}  # fmt: skip

_SOUNDS = """
their there they're | to too two | your you're | its it's | whose who's | were we're | hear here | know no | knew new
write right rite | wait weight | buy by bye | for four fore | one won | ate eight | be bee | see sea | son sun
would wood | whole hole | hour our | meat meet | made maid | mail male | pair pear pare | peace piece | plain plane
rain reign rein | road rode | sale sail | scene seen | sight site cite | some sum | stair stare | steal steel
tail tale | threw through | waist waste | way weigh | weak week | wear where ware | weather whether | which witch
allowed aloud | bare bear | base bass | board bored | brake break | bread bred | cell sell | cent sent scent
cereal serial | check cheque | coarse course | creak creek | dear deer | dew due do | die dye | fair fare
feat feet | find fined | fir fur | flea flee | flour flower | gait gate | grate great | groan grown | guessed guest
hair hare | hall haul | heal heel | heard herd | higher hire | him hymn | idle idol | in inn | knight night
knot not | lead led | lessen lesson | loan lone | main mane | manner manor | mind mined | missed mist | morning mourning
muscle mussel | none nun | oar or ore | paced paste | passed past | pause paws
pray prey | principal principle | profit prophet | raise rays | read red | real reel | ring wring | role roll
root route | seam seem | sole soul | stationary stationery | tea tee | team teem | tide tied | toe tow
vain vein | wail whale | war wore | warn worn | wrap rap | yolk yoke | affect effect | cache cash
counsel council | cue queue | desert dessert | draft draught | ensure insure | key quay
licence license | packed pact | practice practise | sealing ceiling
billed build | bill bil | add ad | aid aide | air heir | aisle isle | ant aunt | bolder boulder | browse brows
chased chaste | chews choose | chord cord | crews cruise | days daze | discreet discrete | earn urn | ewe you
eye aye | foul fowl | frees freeze | genes jeans | great grate | jam jamb | links lynx | mode mowed
nose knows | ode owed | side sighed | size sighs | slay sleigh | taught taut | teas tease | tax tacks | thrown throne
wade weighed | whine wine
"""


@cache
def _sounds() -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for group in _SOUNDS.replace("\n", "|").split("|"):
        for word in group.split():
            others = tuple(other for other in group.split() if other != word)
            found[word] = tuple(dict.fromkeys([*found.get(word, ()), *others]))
    return found


def sound_alikes(word: str) -> tuple[str, ...]:
    """English words that sound like one; empty when there is none."""
    return _sounds().get(word.lower().replace("’", "'"), ())
