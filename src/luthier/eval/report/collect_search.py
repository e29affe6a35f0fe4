"""Collect the facts of a report on searches, from their `search.json` and `trials.parquet`."""

from __future__ import annotations

from luthier.artifacts.search import SearchRecord, read_trials
from luthier.core.artifact import Artifact
from luthier.eval.report.facts.search import SearchFacts


def search_facts(name: str, artifact: Artifact) -> SearchFacts:
    """What the report says of one search."""
    return SearchFacts(name=name, record=SearchRecord.read(artifact), trials=tuple(read_trials(artifact)))
