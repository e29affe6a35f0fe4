"""Releases: switches at once, rollbacks, canaries by person, shadows; models open before a name means them; a ledger
that goes away; and what comes back, compared."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from luthier.chat.messages import Message
from luthier.cli.app import run_command
from luthier.core.db import Ledger
from luthier.core.errors import InputError, LuthierError, ModelError, UnknownName
from luthier.traces.feedback import append_redacted_records
from luthier.traces.record import Route
from luthier.traces.release_comparison import compare_with_stable
from luthier.traces.releases import (
    ReleasedModel,
    ReleaseFollower,
    current_releases,
    history,
    promote,
    release,
    roll_back,
    start_candidate,
)
from tests.traces.conftest import DAY, opinion, trace

if TYPE_CHECKING:
    from tests.conftest import Postgres

OLD, NEW, OTHER = (ReleasedModel(word=f"{name}.yaml:tune", model=name * 32, digest=name * 32) for name in "abc")
ALIAS = "support@prod"


@pytest.fixture
def ledger(database: str) -> Iterator[Ledger]:
    with Ledger(database) as opened:
        yield opened


def test_a_name_means_the_model_that_was_released_last(ledger: Ledger) -> None:
    assert current_releases(ledger) == {}
    release(ledger, ALIAS, OLD)
    release(ledger, "triage@test", OTHER)
    made = release(ledger, ALIAS, NEW)
    assert current_releases(ledger) == {ALIAS: made, "triage@test": history(ledger, "triage@test")[0]}
    assert made.stable == NEW
    assert made.route("anybody") == Route(model=NEW.model, release=NEW.digest)
    assert [one.stable for one in history(ledger, ALIAS)] == [NEW, OLD]


def test_rolling_back_goes_back_step_by_step(ledger: Ledger) -> None:
    for model in (OLD, NEW, NEW, OTHER):
        release(ledger, ALIAS, model)
    assert roll_back(ledger, ALIAS).stable == NEW
    assert roll_back(ledger, ALIAS).stable == OLD
    with pytest.raises(InputError, match="no model answered to it before"):
        roll_back(ledger, ALIAS)
    assert release(ledger, ALIAS, NEW).stable == NEW
    assert roll_back(ledger, ALIAS).stable == OLD


def test_a_canary_answers_the_same_people_until_it_is_promoted_or_stopped(ledger: Ledger) -> None:
    release(ledger, ALIAS, OLD)
    tried = start_candidate(ledger, ALIAS, NEW, share=0.25)
    routes = {user: tried.route(user) for user in map(str, range(2000))}
    assert routes == {user: tried.route(user) for user in routes}
    share = sum(route.variant == "canary" for route in routes.values()) / len(routes)
    assert 0.21 < share < 0.29
    assert {route.model for route in routes.values() if route.variant == "canary"} == {NEW.model}
    wider = start_candidate(ledger, ALIAS, NEW, share=0.5)
    assert all(wider.route(user).variant == "canary" for user, route in routes.items() if route.variant == "canary")
    assert {tried.route(None).variant for _ in range(100)} == {"stable", "canary"}
    nobody = {name: tried.route(None, name) for name in (f"chatcmpl-{n}" for n in range(100))}
    assert {route.variant for route in nobody.values()} == {"stable", "canary"}, "without a user, the request decides"
    assert nobody == {name: tried.route(None, name) for name in nobody}
    assert promote(ledger, ALIAS).stable == NEW
    assert roll_back(ledger, ALIAS).stable == OLD
    start_candidate(ledger, ALIAS, OTHER, share=0.1)
    stopped = roll_back(ledger, ALIAS)
    assert (stopped.did, stopped.stable, stopped.canary, stopped.share) == ("stop", OLD, None, 0.0)


def test_a_shadow_is_asked_unheard_beside_a_canary(ledger: Ledger) -> None:
    release(ledger, ALIAS, OLD)
    start_candidate(ledger, ALIAS, NEW, share=0.5)
    both = start_candidate(ledger, ALIAS, OTHER)
    assert (both.canary, both.shadow, both.share) == (NEW, OTHER, 0.5)
    assert {both.route(str(user)).shadow for user in range(9)} == {OTHER.model}
    assert promote(ledger, ALIAS).stable == NEW


@pytest.mark.parametrize("alias", ["support", "@prod", "support@", "a b@prod", "x" * 80 + "@prod", "a@b@c", "a'@b"])
def test_names_that_are_none_are_refused(ledger: Ledger, alias: str) -> None:
    with pytest.raises(InputError, match="support@prod"):
        release(ledger, alias, OLD)


def test_what_cannot_be_tried_or_found_is_refused(ledger: Ledger) -> None:
    with pytest.raises(UnknownName, match="nothing is released"):
        start_candidate(ledger, ALIAS, OLD, share=0.1)
    release(ledger, ALIAS, OLD)
    with pytest.raises(UnknownName) as caught:
        history(ledger, "suport@prod")
    assert "support@prod" in caught.value.hint
    with pytest.raises(InputError, match="nothing is tried"):
        promote(ledger, ALIAS)
    for share in (0.0, 1.0, 7.0):
        with pytest.raises(InputError, match="between"):
            start_candidate(ledger, ALIAS, NEW, share=share)


class Fleet:
    """Opens models, slowly, and refuses one; what happened stands in its book."""

    def __init__(self) -> None:
        self.open: set[str] = set()
        self.bad: set[str] = set()
        self.busy = asyncio.Event()
        self.busy.set()

    async def prepare(self, model: str) -> str:
        await asyncio.sleep(0.01)
        if model in self.bad:
            raise ModelError("cannot be opened")
        self.open.add(model)
        return model

    async def retire(self, model: str) -> None:
        self.open.discard(model)
        await self.busy.wait()


def test_a_model_is_open_before_a_name_means_it_and_closed_after(database: str) -> None:
    async def story() -> None:
        fleet = Fleet()
        with Ledger(database) as ledger:
            release(ledger, ALIAS, OLD)
            follower = ReleaseFollower(lambda: Ledger(database), fleet, every_s=0.01)
            await follower.start()
            assert follower.names() == [ALIAS]
            assert follower.resolve("nobody", None) is None
            fleet.busy.clear()  # a long answer: the old model's last request is not over
            wrong = list[str]()

            async def ask() -> None:
                while True:
                    route = follower.resolve(ALIAS, "me")
                    if route is None or route.model not in fleet.open:
                        wrong.append(str(route))
                    await asyncio.sleep(0)

            asking = asyncio.create_task(ask())
            for model in (NEW, OTHER, OLD):
                release(ledger, ALIAS, model)
                await _until(
                    lambda model=model: follower.resolve(ALIAS, "me") == Route(model=model.model, release=model.digest)
                )
            roll_back(ledger, ALIAS)
            await _until(lambda: fleet.open == {OTHER.model})
            asking.cancel()
            assert wrong == []
            await follower.stop()

    asyncio.run(story())


def test_a_model_that_cannot_be_opened_leaves_the_name_as_it_was(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        fleet = Fleet()
        fleet.bad.add(NEW.model)
        with Ledger(database) as ledger:
            release(ledger, ALIAS, OLD)
            follower = ReleaseFollower(lambda: Ledger(database), fleet)
            await follower.start()
            release(ledger, ALIAS, NEW)
            for _ in range(3):
                await follower.look()
            assert follower.resolve(ALIAS, None) == Route(model=OLD.model, release=OLD.digest)
            assert caplog.text.count("cannot be opened") == 1
            release(ledger, ALIAS, OTHER)
            await follower.look()
            assert follower.resolve(ALIAS, None) == Route(model=OTHER.model, release=OTHER.digest)
            await follower.stop()

    asyncio.run(story())


def test_while_the_ledger_is_away_names_mean_what_they_meant(
    own_postgres: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        with Ledger(own_postgres.url) as ledger:
            release(ledger, ALIAS, OLD)
        follower = ReleaseFollower(lambda: Ledger(own_postgres.url))
        await follower.start()
        own_postgres.stop()
        for _ in range(3):
            await follower.look()
            assert follower.resolve(ALIAS, None) == Route(model=OLD.model, release=OLD.digest)
        assert caplog.text.count("names mean what they meant") == 1
        own_postgres.start()
        with Ledger(own_postgres.url) as ledger:
            release(ledger, ALIAS, NEW)
        await follower.look()
        assert follower.resolve(ALIAS, None) == Route(model=NEW.model, release=NEW.digest)
        await follower.stop()

    asyncio.run(story())


def test_a_follower_that_finds_no_ledger_says_so(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_text("no database at all, but long enough to be looked at as one")
    follower = ReleaseFollower(lambda: Ledger(f"sqlite:///{tmp_path / 'ledger.db'}"))
    with pytest.raises(LuthierError):
        asyncio.run(follower.start())


async def _until(true: Any) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.005)


def test_what_comes_back_is_compared(database: str, tmp_path: Path) -> None:
    chance = random.Random(5)
    with Ledger(database) as ledger:
        release(ledger, ALIAS, OLD)
        start_candidate(ledger, ALIAS, NEW, share=0.5)
        now = start_candidate(ledger, ALIAS, OTHER)
    records: list[Any] = [trace(9000, release="0" * 32), trace(9001, model="other@prod")]
    for number in range(200):
        arm, model = ("canary", NEW) if number % 2 else ("stable", OLD)
        right = chance.random() < (0.9 if number % 2 else 0.5)
        said = Message(role="assistant", content="billing" if right else "delivery")
        about = {"release": model.digest, "user": f"C-{number % 50}", "answer": said}
        records.append(trace(number, variant=arm, latency_s=0.2 + 0.1 * (number % 2) + chance.random() / 100, **about))
        records.append(opinion(number, label="Billing ", rating=1 if right else -1))
        if not number % 2:
            about = {"release": OTHER.digest, "answer": Message(role="assistant", content="billing")}
            records.append(trace(number + 5000, variant="shadow", meta={"shadow_of": f"chatcmpl-{number}"}, **about))
    append_redacted_records(tmp_path, records)
    canary, shadow = compare_with_stable(tmp_path, now, DAY)
    assert (canary.variant, canary.requests) == ("canary", (100, 100))
    assert canary.measures["accuracy"].difference > 0.2
    assert canary.measures["accuracy"].low > 0
    assert canary.measures["accuracy"].people == (25, 25)
    assert canary.measures["latency_s"].difference == pytest.approx(0.1, abs=0.01)
    assert "first_token_s" not in canary.measures
    assert (shadow.variant, shadow.requests) == ("shadow", (100, 100))
    assert shadow.measures["accuracy"].first == 1.0
    assert shadow.measures["accuracy"].test == "McNemar, mid-p"
    assert shadow.same == shadow.measures["accuracy"].second
    assert compare_with_stable(tmp_path, now, DAY.replace(year=2027))[0].measures == {}


def test_models_are_released_at_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.tiny_models import own_cache, small_recipe

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LUTHIER_CACHE", own_cache(tmp_path))
    monkeypatch.delenv("LUTHIER_LEDGER", raising=False)
    small_recipe(tmp_path)

    def told(*words: str, code: int = 0) -> Any:
        capsys.readouterr()
        assert run_command(["release", *words, "--json"]) == code
        return json.loads(capsys.readouterr().out)

    assert "not made yet" in told(ALIAS, ":tune", code=2)["error"]["message"]
    assert run_command(["run", "--json"]) in (0, 1, 3)
    digest = told(ALIAS, ":tune")["stable"]["digest"]
    assert len(digest) == 32
    assert told("list")[0]["stable"]["word"] == ":tune"
    tried = told(ALIAS, ":model", "--canary", "10%")
    assert (tried["stable"]["digest"], tried["share"]) == (digest, 0.1)
    assert tried["canary"]["digest"] != digest
    assert run_command(["release", "list"]) == 0
    assert "canary :model" in capsys.readouterr().out
    assert told("promote", ALIAS)["stable"]["word"] == ":model"
    assert told("rollback", ALIAS)["stable"]["digest"] == digest
    assert [one["did"] for one in told("history", ALIAS)] == ["rollback", "promote", "canary", "release"]
    assert "nothing is tried" in told("compare", ALIAS, code=2)["error"]["message"]
    assert "both given" in told(ALIAS, ":tune", "--canary", "10%", "--shadow", code=2)["error"]["message"]
    assert "expected a share" in told(ALIAS, ":tune", "--canary", "some", code=2)["error"]["message"]
    assert "nothing is released" in told("promote", "other@prod", code=2)["error"]["message"]
    told(ALIAS, ":model", "--shadow")
    assert told("compare", ALIAS, code=2)["error"]["hint"].startswith("`luthier serve`")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("seed: ", "seed: 1"))
    assert run_command(["store", "gc", "--dry-run", "--json"]) == 0
    assert digest not in capsys.readouterr().out
