"""Who uses the studio, and what they may do."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

from fastapi import Depends
from starlette.requests import Request

Right = Literal["view", "label", "review", "edit", "own"]
"""Look at pages; answer questions; review production output and decide; change recipes, runs and releases; manage
people."""


class Person(NamedTuple):
    """Who makes a request."""

    id: str
    """What answers and changes are recorded under."""
    name: str


def find_person(request: Request) -> Person:
    """Who makes a request: without accounts, the user of this machine, who may do everything."""
    return Person(getpass.getuser(), getpass.getuser())


PersonDep = Annotated[Person, Depends(find_person)]


def allow(right: Right) -> Callable[[Request, PersonDep], None]:
    """A dependency of a route: whoever has not this right (for the project in the address) is refused."""

    def check(request: Request, person: PersonDep) -> None:
        """One user on this machine needs no rights."""

    return check
