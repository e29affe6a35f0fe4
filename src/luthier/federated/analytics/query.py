"""The role `site_query`: a question about the rows of all sites, which each site answers by counts and nothing else."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from luthier.core.artifact import Artifact
from luthier.core.component import Component
from luthier.data.check import RowNames
from luthier.data.validate.context import CheckData
from luthier.metrics.counts import CountGroup, Counts

MOST_ROWS = 50_000
"""Rows of a site that are counted; of more, a draw by content, as `validate` has it."""


@dataclass(frozen=True)
class SiteRows:
    """The rows that a site counts."""

    artifact: Artifact | None
    seed: int = 0
    traffic: Path | None = None
    """Folder of requests to a served model; None: none are counted."""
    references: Path | None = None
    """What the signals were fitted to on the site's own training rows."""
    limit: int = MOST_ROWS

    @cached_property
    def data(self) -> CheckData:
        """The rows of its data set."""
        assert self.artifact is not None, "a question about rows comes where there are some"
        return CheckData.of(self.artifact, self.limit, self.seed)


class SiteQuery(Component):
    """The base class of questions to sites.

    A question is settings alone. Each row adds one to one cell of a group at most, and a group's cells follow from the
    settings and from names that are agreed before, so that all sites count alike.
    """

    role: ClassVar[str] = "site_query"
    home: ClassVar[str] = "luthier.federated.queries"
    asks_names: ClassVar[bool] = False
    """Whether sites first agree on names of classes and fields."""

    @property
    def window(self) -> tuple[int, int] | None:
        """The seconds since 1970 between which requests are counted; None where rows of a data set are."""
        return None

    @abstractmethod
    def list_groups(self, names: RowNames) -> Sequence[CountGroup]:
        """Return the counted groups."""

    @abstractmethod
    def count(self, rows: SiteRows, names: RowNames) -> Counts:
        """The counts of one site's rows."""

    def count_names(self, rows: SiteRows) -> dict[str, int]:
        """Return the rows of each name, prefixed with its kind; empty where no names are needed."""
        return {}

    def find_noise_obstacle(self, names: RowNames) -> str:
        """Return why one row may change a group by more than one, so that noise does not protect it; empty
        otherwise.
        """
        return ""

    def refuses(self) -> str:
        """Return why a site cannot answer it; empty when it can."""
        return ""

    def list_row_ids(self, rows: SiteRows) -> Iterable[str]:
        """Return the ids of the counted rows."""
        return (row.id for row in rows.data.rows)


def list_paths(query: SiteQuery) -> list[str]:
    """Files that the settings name: there must be none."""
    from luthier.core.component import iter_components

    return [name for part in iter_components(query) for name, _ in part.paths(Path())]
