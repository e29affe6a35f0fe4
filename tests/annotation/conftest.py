"""A project of items in a ledger of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from luthier.annotation.project import NewItem, ProjectSettings, add_items, create_project
from luthier.annotation.question import QuestionItem
from luthier.annotation.queue import AnnotationQueue, AnswerSubmission, LeasedItem
from luthier.core.db import Ledger

TOPIC = {"kind": "choice", "labels": ["billing", "login", "other"]}


@pytest.fixture
def ledger(database: str) -> Iterator[Ledger]:
    with Ledger(database) as opened:
        yield opened


def item(number: int, **more: Any) -> NewItem:
    return NewItem(f"row-{number}", QuestionItem(({"role": "user", "content": f"text {number}"},)), **more)


def answer(leased: LeasedItem, label: str = "billing", **more: Any) -> AnswerSubmission:
    return AnswerSubmission(**{"id": f"submission-{leased.id}", "item": leased.id, "values": {"topic": label}, **more})


MakeQueue = Callable[..., AnnotationQueue]


@pytest.fixture
def make_queue(ledger: Ledger) -> MakeQueue:
    """Make a project with so many items, and settings."""

    def make(count: int = 3, items: list[NewItem] | None = None, **settings: Any) -> AnnotationQueue:
        asked = ProjectSettings.model_validate({"questions": {"topic": TOPIC}, **settings})
        project = create_project(ledger, "Topics", asked, by="owner")
        add_items(ledger, project.id, [item(number) for number in range(count)] if items is None else items)
        return AnnotationQueue(ledger, project.id)

    return make
