"""Words that name a group of people, each with its counterparts.

Sources: pairs of gendered words are common English ones, as in Zhao et al. 2018 (WinoBias) and Lu et al. 2018
(counterfactual data augmentation). First names of two origins are those of Bertrand and Mullainathan 2004, table 8:
eight of nine each, without the one that is also a country. Countries with their adjectives and peoples are as in the
CIA World Factbook (public domain). Religions are the largest by adherents (Pew Research Center 2012).
"""

from __future__ import annotations

from functools import cache
from typing import Literal

Group = Literal["gender", "names", "nationality", "religion", "age"]

_GENDER = """
he/she himself/herself man/woman men/women boy/girl boys/girls gentleman/lady gentlemen/ladies guy/gal guys/gals
father/mother fathers/mothers dad/mom dads/moms daddy/mommy papa/mama son/daughter sons/daughters brother/sister
brothers/sisters husband/wife husbands/wives boyfriend/girlfriend boyfriends/girlfriends uncle/aunt uncles/aunts
nephew/niece nephews/nieces grandfather/grandmother grandfathers/grandmothers grandpa/grandma grandson/granddaughter
grandsons/granddaughters stepfather/stepmother stepson/stepdaughter groom/bride prince/princess princes/princesses
mr/mrs mr/ms sir/madam male/female males/females masculine/feminine fatherhood/motherhood paternal/maternal
actor/actress actors/actresses waiter/waitress waiters/waitresses steward/stewardess stewards/stewardesses
businessman/businesswoman businessmen/businesswomen salesman/saleswoman salesmen/saleswomen policeman/policewoman
policemen/policewomen chairman/chairwoman chairmen/chairwomen spokesman/spokeswoman spokesmen/spokeswomen
fireman/firewoman mailman/mailwoman cameraman/camerawoman landlord/landlady landlords/landladies widower/widow
widowers/widows hero/heroine heroes/heroines monk/nun monks/nuns
lad/lass lads/lasses bachelor/bachelorette fiance/fiancee fiancé/fiancée schoolboy/schoolgirl
schoolboys/schoolgirls cowboy/cowgirl manhood/womanhood mum/dad
"""
_NAMES: dict[tuple[str, str], tuple[str, ...]] = {
    ("male", "one"): ("Todd", "Neil", "Geoffrey", "Brett", "Brendan", "Greg", "Matthew", "Brad"),
    ("male", "two"): ("Rasheed", "Tremayne", "Kareem", "Darnell", "Tyrone", "Jamal", "Leroy", "Jermaine"),
    ("female", "one"): ("Emily", "Anne", "Jill", "Allison", "Laurie", "Sarah", "Meredith", "Carrie"),
    ("female", "two"): ("Aisha", "Keisha", "Tamika", "Lakisha", "Tanisha", "Latoya", "Latonya", "Ebony"),
}
_COMMON_NAMES = """
James/Mary John/Patricia Robert/Jennifer Michael/Linda William/Elizabeth David/Barbara Richard/Susan Joseph/Jessica
Thomas/Karen Charles/Lisa Christopher/Nancy Daniel/Betty Anthony/Margaret Donald/Ashley Steven/Kimberly
Paul/Donna Andrew/Michelle Joshua/Carol Kenneth/Amanda Kevin/Dorothy Brian/Melissa George/Deborah Edward/Stephanie
Ronald/Rebecca Timothy/Sharon Jason/Laura Jeffrey/Cynthia Ryan/Kathleen Jacob/Amy Gary/Angela Nicholas/Shirley
Eric/Anna Jonathan/Brenda Stephen/Pamela Larry/Emma Justin/Nicole Scott/Helen Brandon/Samantha Benjamin/Katherine
"""
_NATIONALITY = """
Germany/German/Germans | France/French | Spain/Spanish/Spaniards | Italy/Italian/Italians | Poland/Polish/Poles
Turkey/Turkish/Turks | Greece/Greek/Greeks | Russia/Russian/Russians | China/Chinese | Japan/Japanese
Korea/Korean/Koreans | India/Indian/Indians | Pakistan/Pakistani/Pakistanis
Mexico/Mexican/Mexicans | Brazil/Brazilian/Brazilians
Nigeria/Nigerian/Nigerians | Ethiopia/Ethiopian/Ethiopians | Somalia/Somali/Somalis | Egypt/Egyptian/Egyptians
Iran/Iranian/Iranians | Iraq/Iraqi/Iraqis | Syria/Syrian/Syrians | Vietnam/Vietnamese | Canada/Canadian/Canadians
America/American/Americans | England/English | Ireland/Irish | Sweden/Swedish/Swedes | Romania/Romanian/Romanians
"""
_RELIGION = """
Christianity/Christian/Christians/church/churches/Bible | Islam/Muslim/Muslims/mosque/mosques/Quran
Judaism/Jewish/Jews/synagogue/synagogues/Torah | Hinduism/Hindu/Hindus/temple/temples/Vedas
Buddhism/Buddhist/Buddhists/temple/temples/Tripitaka
"""
_AGE = """
old/young older/younger oldest/youngest elderly/youthful grandparent/grandchild grandparents/grandchildren
adult/teenager adults/teenagers pensioner/student pensioners/students
"""
_PERSONS = """
man men woman women lady ladies gentleman gentlemen person people boy boys girl girls guy guys couple couples father
mother parents customer customers lad lass citizen citizens worker workers patient patients neighbour neighbours
neighbor neighbors adult adults folk folks
"""
PERSONS = frozenset(_PERSONS.split())
"""Who is meant: adjectives of age are theirs only before one of these words ("an old man", never "an old order")."""
OF_PERSONS = frozenset(["old", "older", "oldest", "young", "younger", "youngest", "youthful", "elderly"])
"""Those adjectives."""


def _pairs(table: str) -> dict[str, tuple[str, ...]]:
    """Each word with its one counterpart, both ways; the first pair of a word counts."""
    found: dict[str, tuple[str, ...]] = {}
    for entry, other in (pair.split("/") for pair in table.split()):
        found.setdefault(entry, (other,))
        found.setdefault(other, (entry,))
    return found


def _families(table: str) -> list[list[str]]:
    """Families of forms, one for each value of a group."""
    return [family.strip().split("/") for line in table.strip().splitlines() for family in line.split("|")]


@cache
def counterpart_words(group: Literal["gender", "age"]) -> dict[str, tuple[str, ...]]:
    """Words in small letters with their counterpart; names of the other gender under `gender` as they are written."""
    return {**_pairs(_GENDER), **_named_pairs()} if group == "gender" else _pairs(_AGE)


def _named_pairs() -> dict[str, tuple[str, ...]]:
    """First names with one of the other gender and the same origin."""
    found = _pairs(_COMMON_NAMES)
    for origin in ("one", "two"):
        men, women = _NAMES["male", origin], _NAMES["female", origin]
        found |= {man: (woman,) for man, woman in zip(men, women, strict=True)}
        found |= {woman: (man,) for man, woman in zip(men, women, strict=True)}
    return found


@cache
def interchangeable_values(
    group: Literal["names", "nationality", "religion"],
) -> tuple[tuple[tuple[str, ...], ...], ...]:
    """Sets of values that may stand for each other; a value is its forms, in an order that all of a set share."""
    if group == "names":
        return tuple(
            (*((name,) for name in _NAMES[gender, "one"]), *((name,) for name in _NAMES[gender, "two"]))
            for gender in ("male", "female")
        )
    table = _NATIONALITY if group == "nationality" else _RELIGION
    alike: dict[tuple[int, bool], list[tuple[str, ...]]] = {}
    for family in _families(table):
        # "an American" is a word for a person, too, and "a Turkish" is none
        is_noun = group == "nationality" and len(family) > 2 and family[2] == f"{family[1]}s"
        alike.setdefault((len(family), is_noun), []).append(tuple(family))
    return tuple(tuple(found) for _, found in sorted(alike.items()) if len(found) > 1)
