"""A model that a job made is there for the key that wanted it and for administrators; to others it does not exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from luthier.commands.jobs.records import JobRequest
from luthier.commands.jobs.registry import JobRepository, find_alias_owners, generate_job_name
from luthier.core.db import Ledger
from luthier.serve.engines.torch import TorchEngine
from luthier.traces.api_keys import INFER, Scope, add_key
from luthier.traces.releases import ReleasedModel, ReleaseFollower, delete_alias, release
from serving import Served, model_in, serving

SCOPES: dict[str, tuple[Scope, ...]] = {
    "anna": ("infer", "tune"),
    "annas-app": INFER,
    "ben": ("infer", "tune"),
    "root": ("admin",),
}
ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
ALL = {"annas", "everybodys", "desk@prod"}


class House:
    """A gateway that follows a ledger, and whoever has a key to it."""

    def __init__(self, served: Served, follower: ReleaseFollower, ledger: Ledger, keys: dict[str, str]) -> None:
        self.served, self.ledger, self._follower, self._keys = served, ledger, follower, keys

    def client(self, who: str) -> openai.OpenAI:
        return self.served.client(self._keys[who])

    def listed(self, who: str) -> set[str]:
        return {one.id for one in self.client(who).models.list()}

    def asks(self, who: str, model: str) -> bool:
        """Whether somebody may ask a model in every way; else it is said not to be there, in every way."""
        client = self.client(who)
        ways = (
            lambda: client.chat.completions.create(model=model, **ASKED),
            lambda: client.completions.create(model=model, prompt="hi", max_tokens=2),
            lambda: client.models.retrieve(model),
        )
        answers = set[Any]()
        for way in ways:
            try:
                way()
                answers.add(None)
            except openai.NotFoundError as error:
                said, _, known = dict(error.body)["message"].partition("; ")  # type: ignore[call-overload]  # it is a mapping
                answers.add((error.code, said))
                assert set(re.findall(r"[\w:@-]+", known.partition("known: ")[2])) <= self.listed(who)
        unknown = ("model_not_found", f"the model {model!r} is not served here")
        assert answers in ({None}, {unknown}), "all ways say the same"
        return answers == {None}

    def counted(self, who: str) -> set[str]:
        """The models of which somebody is told how often they were asked, or how busy they are."""
        page = self.served.get("/metrics", headers={"Authorization": f"Bearer {self._keys[who]}"}).text
        return set(re.findall(r'model="([^"]+)"', page))

    def release(self, name: str, model: ReleasedModel) -> None:
        release(self.ledger, name, model)
        self.look()

    def look(self) -> None:
        self.served.run(self._follower.look())


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    model = model_in(tmp_path / "store")
    opened = {name: lambda: TorchEngine(dtype="float32").open(model) for name in ("annas", "everybodys")}
    where = tmp_path / "ledger.db"
    with Ledger(where) as ledger:
        keys = {who: add_key(ledger, who, scopes) for who, scopes in SCOPES.items()}
        release(ledger, "desk@prod", ReleasedModel(word="x", model="everybodys"))
        follower = ReleaseFollower(lambda: Ledger(where), owners=find_alias_owners)
        with serving(opened, where, resolver=follower, open_now=False) as served:
            for name in opened:
                served.run(served.gateway.fleet.prepare(name))
            served.run(follower.start())
            yield House(served, follower, ledger, keys)
            served.run(follower.stop())


def tuned(house: House, key: str | None, model: str = "annas") -> str:
    """The name of a model that a job of somebody's made, as it is released before the job says so."""
    job = generate_job_name()
    JobRepository(house.ledger).add(key, JobRequest(model="base", training_file="file-x"), job)
    name = f"ft:base:luthier::{job[6:14]}"
    house.release(name, ReleasedModel(word=job, model=model))
    return name


def test_only_the_key_that_wanted_it_and_administrators_find_it(house: House) -> None:
    name = tuned(house, "anna")
    step = f"{name}:ckpt-step-4"
    house.release(step, ReleasedModel(word=f"ftjob-{'0' * 24}", model="annas"))
    assert house.listed("root") == {*ALL, name, step}
    assert not house.asks("anna", step), "a name without its job is nobody's"
    house.release(step, ReleasedModel(word=str(JobRepository(house.ledger).everybody()[0].id), model="annas"))
    assert house.listed("anna") == {*ALL, name, step}
    assert house.listed("ben") == house.listed("annas-app") == {"everybodys", "desk@prod"}
    for asked in (name, step, "annas"):
        assert house.asks("anna", asked)
        assert house.asks("root", asked)
        assert not house.asks("ben", asked), "not by the word that opens it either"
        assert not house.asks("annas-app", asked)
    assert house.asks("ben", "desk@prod")


def test_a_released_alias_of_it_is_everybodys(house: House) -> None:
    name = tuned(house, "anna")
    house.release("support@prod", ReleasedModel(word="x", model="annas"))
    assert house.asks("ben", "support@prod")
    assert not house.asks("ben", name)
    assert house.listed("ben") == {*ALL, "support@prod"}
    delete_alias(house.ledger, "support@prod")
    house.look()
    assert not house.asks("ben", "annas")
    assert house.listed("ben") == {"everybodys", "desk@prod"}


def test_models_of_nobodys_jobs_are_left_to_administrators_once_there_are_keys(house: House) -> None:
    name = tuned(house, None)
    assert house.asks("root", name)
    assert not house.asks("anna", name)


def test_the_same_model_of_two_keys_is_asked_by_their_names(house: House) -> None:
    annas, bens = tuned(house, "anna"), tuned(house, "ben")
    assert (house.asks("anna", annas), house.asks("anna", bens)) == (True, False)
    assert (house.asks("ben", annas), house.asks("ben", bens)) == (False, True)
    assert not house.asks("ben", "annas")


def test_counts_of_it_are_told_to_whoever_may_ask_it(house: House) -> None:
    name = tuned(house, "anna")
    assert house.asks("anna", name)
    assert not house.asks("anna", "nothing")
    assert house.asks("ben", "desk@prod")
    assert house.counted("anna") == house.counted("root") == {*ALL, name, "unknown"}
    assert house.counted("ben") == house.counted("annas-app") == {"everybodys", "desk@prod", "unknown"}
    delete_alias(house.ledger, name)
    house.look()
    assert name in house.counted("root")
    assert name not in house.counted("ben"), "what is gone stays hidden"
