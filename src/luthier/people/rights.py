"""Rights and roles: what a role allows, and whether a person may do something in a project."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple, get_args

Right = Literal["view", "label", "review", "edit", "own"]
"""Look at pages; answer questions; review production output, see personal data and decide; change recipes, runs and
releases; manage people."""
Role = Literal["owner", "editor", "reviewer", "labeller", "viewer"]
RIGHTS: tuple[Right, ...] = get_args(Right)
ROLES: tuple[Role, ...] = get_args(Role)
WORKSPACE = "*"
"""The project of a role that holds in all of them."""
ALLOWED: Mapping[Role, frozenset[Right]] = MappingProxyType(
    {
        "owner": frozenset(RIGHTS),
        "editor": frozenset({"view", "label", "review", "edit"}),
        "reviewer": frozenset({"view", "label", "review"}),
        "labeller": frozenset({"label"}),
        "viewer": frozenset({"view"}),
    }
)
"""A labeller sees nothing but the items that are to be labelled."""


class Person(NamedTuple):
    """Who makes a request."""

    id: str
    """What answers and changes are recorded under."""
    name: str
    roles: Mapping[str, Role] = MappingProxyType({})
    """The role in each project; that of `*` holds in all."""

    def may(self, right: Right, *projects: str) -> bool:
        """Whether the person has a right in one of these projects; without any, in the whole workspace."""
        return any(right in ALLOWED[self.roles[project]] for project in (WORKSPACE, *projects) if project in self.roles)

    def may_somewhere(self, right: Right) -> bool:
        """Whether the person has a right in any project."""
        return any(right in ALLOWED[role] for role in self.roles.values())

    def projects_with(self, right: Right, projects: Iterable[str]) -> list[str]:
        """Those of the projects in which the person has a right."""
        return [project for project in projects if self.may(right, project)]
