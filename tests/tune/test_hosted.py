"""Techniques that have a provider tune the model: the whole way with each, what never leaves, and no job paid twice,
whatever fails on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hosted import KEY, Answer, Provider, providing
from luthier.chat.messages import Example
from luthier.core.artifact import Artifact
from luthier.core.component import components_by_kind
from luthier.core.errors import DataError, LuthierError, ModelError
from luthier.core.step import ArtifactSpec, PlanContext
from luthier.models.lm.base import GenerateRequest
from luthier.models.lm.openai_client import EndpointLM
from luthier.models.load import get_model_name, is_endpoint, is_tuned
from luthier.serve.engines.remote import RemoteEngine
from luthier.tune.hosted import client as hosted_client
from luthier.tune.hosted.technique import HostedTechnique
from luthier.tune.steps.tune import Tune
from luthier.tune.technique import TechniqueBase
from tuning import TuneEnv, chat, examples, make_env, pairs, preferring

ELSEWHERE = {"bedrock"}
"""Those of `test_hosted_bedrock.py`."""
KINDS = sorted(
    kind
    for kind, one in components_by_kind(TechniqueBase).items()
    if issubclass(one, HostedTechnique) and kind not in ELSEWHERE
)
NEEDED: dict[str, dict[str, Any]] = {
    "azure": {"api_version": "2024-10-21"},
    "fireworks": {"account": "me"},
    "vertex": {"project": "me", "region": "here", "bucket": "rows"},
}
CREATE = {
    "azure": "POST /v1/fine_tuning/jobs",
    "fireworks": "POST /v1/accounts/me/supervisedFineTuningJobs",
    "openai": "POST /v1/fine_tuning/jobs",
    "together": "POST /v1/fine-tunes",
    "vertex": "POST /v1/projects/me/locations/here/tuningJobs",
}
by_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    monkeypatch.setattr(hosted_client, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(hosted_client, "LONGEST_WAIT_S", 0.02)
    monkeypatch.setenv("PROVIDER_KEY", KEY)
    with providing() as found:
        yield found


@pytest.fixture
def env(tmp_path: Path) -> TuneEnv:
    return make_env(tmp_path)


def step(provider: Provider, kind: str = "openai", **fields: Any) -> Tune:
    usual = {"kind": kind, "model": "base", "url": f"{provider.root}/v1", "key_env": "PROVIDER_KEY", "upload": True}
    store = {"storage_url": provider.root} if kind == "vertex" else {}
    fields = {**usual, **NEEDED.get(kind, {}), **store, "poll_s": 0.01, "patience_s": 30.0, **fields}
    return Tune(data="data", technique=TechniqueBase.parse(fields))


def uploads(provider: Provider) -> int:
    return sum(
        one.endswith((":upload", "/files", "/files/upload", "/rows/o")) and one.startswith("POST")
        for one in provider.asked
    )


def again(env: TuneEnv, wanted: Tune) -> Artifact:
    """Made in a place where nothing is known of an earlier try."""
    folder = env.store.begin(env.tune_digest(wanted))[1]
    for path in folder.iterdir():
        path.unlink()
    return env.classify(wanted)


def assert_no_key(env: TuneEnv, *more: str) -> None:
    said = [event.text + event.details for event in env.heard]
    for path in env.store.root.rglob("*"):
        if path.is_file():
            assert KEY.encode() not in path.read_bytes(), path
    assert not [text for text in (*said, *more) if KEY in text]


@by_kind
def test_a_model_is_tuned_and_answers_as_an_endpoint(kind: str, provider: Provider, env: TuneEnv) -> None:
    provider.events = [{"id": "e1", "created_at": "1", "level": "info", "message": "started", "type": "message"}]
    made = env.classify(step(provider, kind, epochs=2))
    assert is_endpoint(made)
    assert is_tuned(made)
    said = EndpointLM.of(made).generate([GenerateRequest(prompt=examples(1)[0].messages[:-1], max_tokens=5)])
    assert [one.text for one in said] == ["billing"]
    assert RemoteEngine().open(made) is not None
    record = made.read_json("job.json")
    assert record["provider"] == kind
    assert record["rows"] == 48
    assert record["tokens_told"] > 48
    assert get_model_name(made) == record["model"]
    assert provider.keys == {f"Bearer {KEY}"} | ({f"api-key {KEY}"} if kind == "azure" else set())
    assert provider.count(CREATE[kind]) == 1
    [content] = provider.contents.values()
    rows = [json.loads(line) for line in content.splitlines()[:3]]
    answers = (
        [row["contents"][-1]["parts"][0]["text"] for row in rows]
        if kind == "vertex"
        else [row["messages"][-1]["content"] for row in rows]
    )
    assert answers == [one.messages[-1].content for one in examples(3)]
    if kind not in ("fireworks", "vertex"):
        assert env.said("note").count("started") == 1
    assert_no_key(env, json.dumps(provider.jobs), json.dumps(provider.files))


@by_kind
def test_a_job_is_found_again_where_nothing_is_known_of_it(kind: str, provider: Provider, env: TuneEnv) -> None:
    one = env.classify(step(provider, kind)).read_json("job.json")
    env.store.remove(env.tune_digest(step(provider, kind)))
    two = again(env, step(provider, kind)).read_json("job.json")
    assert one["job"] == two["job"]
    assert provider.count(CREATE[kind]) == 1
    assert uploads(provider) == 1


@by_kind
def test_other_rows_seeds_or_settings_are_other_jobs(kind: str, provider: Provider, env: TuneEnv) -> None:
    made = [step(provider, kind), step(provider, kind, epochs=1)]
    assert len({env.classify(one).read_json("job.json")["job"] for one in made}) == 2
    cheaper = step(provider, kind, price_per_million_tokens=2.0, max_price=5.0, patience_s=9.0)
    env.classify(cheaper)  # what a price list says makes no other job
    assert provider.count(CREATE[kind]) == 2


@by_kind
@pytest.mark.parametrize("answer", [Answer(status=None), Answer({"error": {"message": "oops"}}, 500)])
def test_a_lost_answer_to_the_creation_makes_no_second_job(
    kind: str, answer: Answer, provider: Provider, env: TuneEnv
) -> None:
    provider.after[CREATE[kind]] = [answer]
    env.classify(step(provider, kind))
    assert provider.count(CREATE[kind]) == 1
    assert len(provider.jobs) == 1


@by_kind
def test_a_lost_upload_is_not_uploaded_twice(kind: str, provider: Provider, env: TuneEnv) -> None:
    lost = Answer(status=None)
    names = ("/v1/files", "/v1/files/upload")
    provider.after = {f"POST {name}": [lost] for name in names}
    env.classify(step(provider, kind))
    assert uploads(provider) == 1


@by_kind
@pytest.mark.parametrize("at", ["before", "after"])
def test_a_run_that_is_killed_around_the_creation_goes_on_with_one_job(
    kind: str, at: str, provider: Provider, env: TuneEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, member = step(provider, kind), components_by_kind(TechniqueBase)[kind]
    assert issubclass(member, HostedTechnique)
    create = member.create_job

    def dying(self: Any, *args: Any) -> Any:
        if at == "after":
            create(self, *args)
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(member, "create_job", dying)
        with pytest.raises(SystemExit):
            env.classify(wanted)
    env.classify(wanted)
    assert len(provider.jobs) == 1
    assert uploads(provider) == 1


@by_kind
@pytest.mark.parametrize("choice", ["keep", "cancel"])
def test_an_interrupted_run_keeps_or_cancels_its_job(
    kind: str, choice: str, provider: Provider, env: TuneEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = step(provider, kind, on_interrupt=choice)

    def interrupt(*args: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(wanted.technique), "read_events", interrupt)
        with pytest.raises(KeyboardInterrupt):
            env.classify(wanted)
    assert any(f"on_interrupt: {choice}" in text for text in env.said("note"))
    env.classify(wanted)
    assert len(provider.jobs) == (1 if choice == "keep" else 2)
    if choice == "keep":
        assert any(text.startswith("going on with job") for text in env.said("note"))


@by_kind
def test_a_failed_job_says_why_and_the_next_run_starts_another(kind: str, provider: Provider, env: TuneEnv) -> None:
    why = f"line 3 is malformed, {KEY}"
    outcomes: dict[str, dict[str, Any]] = {
        "azure": {"status": "failed", "error": {"message": why}, "fine_tuned_model": None},
        "vertex": {"state": "JOB_STATE_FAILED", "error": {"code": 3, "message": why}, "tunedModel": {}},
        "openai": {"status": "failed", "error": {"message": why}, "fine_tuned_model": None},
        "together": {"status": "error", "events": [{"message": why}]},
        "fireworks": {"state": "JOB_STATE_FAILED", "status": {"code": "INTERNAL", "message": why}},
    }
    provider.outcome = outcomes[kind]
    with pytest.raises(ModelError, match="failed: line 3 is malformed, …") as error:
        env.classify(step(provider, kind))
    assert_no_key(env, str(error.value))
    provider.outcome = {}
    env.classify(step(provider, kind))
    assert len(provider.jobs) == 2
    assert uploads(provider) == 1


def test_rows_leave_only_with_upload(provider: Provider, env: TuneEnv) -> None:
    wanted = step(provider, upload=False)
    sentence = r"48 rows \(messages, answers and tools of the training split\) would be sent to http://127"
    with pytest.raises(ModelError, match=sentence):
        env.classify(wanted)
    plan = PlanContext(inputs={"data": env.data}, upstream={}, recipe_dir=Path())
    with pytest.raises(ModelError, match=sentence):
        wanted.estimate_cost(plan)
    with pytest.raises(ModelError, match="the training rows"):
        wanted.estimate_cost(PlanContext(inputs={}, upstream={}, recipe_dir=Path()))
    assert provider.asked == []


METHODS = {
    "azure": ("method",),
    "fireworks": ("trainingConfig", "lossConfig"),
    "openai": ("method",),
    "together": ("training_method",),
}
"""What a job says of preferences, in each provider's words."""


@pytest.mark.parametrize("kind", sorted(METHODS))
def test_preferences_are_tuned_on_in_the_providers_form(kind: str, provider: Provider, tmp_path: Path) -> None:
    env = make_env(tmp_path, pairs())
    made = env.classify(step(provider, kind, method="dpo", beta=0.2, epochs=1))
    assert made.read_json("training.json")["objective"] == {"kind": "dpo"}
    [job] = provider.jobs
    asked = {
        "azure": {"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 1, "beta": 0.2}}},
        "fireworks": {"method": "DPO", "klBeta": 0.2},
        "openai": {"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 1, "beta": 0.2}}},
        "together": {"method": "dpo", "dpo_beta": 0.2},
    }
    assert job[METHODS[kind][-1]] == asked[kind]
    first = pairs(1)[0]
    row = json.loads(next(iter(provider.contents.values())).splitlines()[0])
    assert [one["role"] for one in row["input"]["messages"]] == ["system", "user"]
    assert row["preferred_output"] == [{"role": "assistant", "content": first.messages[-1].content}]
    assert row["non_preferred_output"] == [{"role": "assistant", "content": first.meta["rejected"]}]
    assert made.read_json("job.json")["tokens_told"] > 24 * 20


def test_preferences_and_answers_are_other_jobs(provider: Provider, tmp_path: Path) -> None:
    env = make_env(tmp_path, pairs())
    for fields in ({}, {"method": "dpo"}, {"method": "dpo", "beta": 0.5}):
        env.classify(step(provider, **fields))
    assert len(provider.jobs) == 3
    with pytest.raises(ValueError, match="beta belongs to `method: dpo`"):
        step(provider, beta=0.1)


def test_a_row_that_is_refused_is_named_by_file_and_line(provider: Provider, tmp_path: Path) -> None:
    rows = [*pairs(4), preferring(chat("where is it", "delivery", 17), "delivery")]
    with pytest.raises(DataError, match=r"1 of 5 rows would be refused by the server.*a tie") as error:
        make_env(tmp_path, rows).classify(step(provider, method="dpo"))
    assert str(error.value).startswith("tickets.csv:17")
    assert provider.asked == []


def test_what_a_price_list_says_does_not_rename_the_model(provider: Provider, env: TuneEnv) -> None:
    plain, priced = (
        step(provider),
        step(provider, price_per_million_tokens=2.0, max_price=9.0, poll_s=1.0, upload=False),
    )
    assert plain.recipe_digest({}, {}, 1) == priced.recipe_digest({}, {}, 1)
    assert plain.recipe_digest({}, {}, 1) != step(provider, epochs=1).recipe_digest({}, {}, 1)
    one = env.classify(plain)
    names = ("endpoint.json", "job.json", "model.json", "training.json", "training_examples.parquet")
    written = {name: (one.folder / name).read_bytes() for name in names}
    env.store.remove(env.tune_digest(plain))
    measured = priced.model_copy(update={"technique": priced.technique.model_copy(update={"upload": True})})
    two = again(env, measured)
    assert {name: (two.folder / name).read_bytes() for name in names} == written


def test_personal_data_do_not_leave(provider: Provider, tmp_path: Path) -> None:
    rows: list[Example] = [
        *examples(10),
        chat("I am anna.smith@example.com, call +44 20 7946 0958", "account"),
        chat("mail to bob@example.org", "billing"),
        chat("my card is [CARD] and my mail [EMAIL]", "billing"),
    ]
    env = make_env(tmp_path, rows)
    with pytest.raises(DataError, match="nothing was uploaded: 2 × email, 1 × phone") as error:
        env.classify(step(provider))
    assert "anna" not in str(error.value)
    assert provider.asked == []
    env.classify(step(provider, allow_personal_data=True))


def test_the_price_is_told_and_capped(provider: Provider, env: TuneEnv) -> None:
    plan = PlanContext(inputs={"data": env.data}, upstream={}, recipe_dir=Path())
    told = step(provider, price_per_million_tokens=1000.0).estimate_cost(plan)
    assert told.tokens is not None
    assert f"{told.tokens:,} tokens in 3 epochs at 1000 a million: {told.tokens / 1000:.2f}" in told.how
    assert "give `price_per_million_tokens`" in step(provider).estimate_cost(plan).how
    for run in (lambda one: one.estimate_cost(plan), env.classify):
        with pytest.raises(ModelError, match=r"would cost about .* max_price is 0.01"):
            run(step(provider, price_per_million_tokens=1000.0, max_price=0.01))
    with pytest.raises(ValueError, match="max_price needs price_per_million_tokens"):
        step(provider, max_price=1.0)
    assert provider.asked == []


def test_tools_are_sent_and_counted(provider: Provider, tmp_path: Path) -> None:
    tool = {"name": "find", "description": "looks for an order " * 40, "parameters": {"type": "object"}}
    rows = [one.model_copy(update={"tools": (tool,)}) for one in examples(4)]
    env = make_env(tmp_path)
    folder, scratch = env.store.begin("0" * 64)
    work = replace(env.work(step(provider)), folder=folder, scratch=scratch)
    technique = step(provider).technique
    assert isinstance(technique, HostedTechnique)
    technique.fit(work, rows, "auto")
    [content] = provider.contents.values()
    assert json.loads(content.splitlines()[0])["tools"] == [{"type": "function", "function": tool}]
    assert json.loads((folder / "job.json").read_text())["tokens_told"] > 4 * 40 * 4


def test_a_server_without_events_and_without_cancelling_will_do(
    provider: Provider, env: TuneEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.faults["GET /v1/fine_tuning/jobs/ftjob-0/events"] = [Answer({}, 404)] * 9
    env.classify(step(provider))
    provider.faults["POST /v1/fine_tuning/jobs/ftjob-1/cancel"] = [Answer(status=None)]
    wanted = step(provider, epochs=1, on_interrupt="cancel")

    def interrupt(*args: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(wanted.technique), "read_events", interrupt)
        with pytest.raises(KeyboardInterrupt):
            env.classify(wanted)
    assert any("ftjob-1 could not be cancelled" in text for text in env.said("warning"))


def test_more_tokens_than_told_are_said(provider: Provider, env: TuneEnv) -> None:
    provider.outcome = {"trained_tokens": 5_000_000}
    env.classify(step(provider, price_per_million_tokens=2.0, max_price=3.0))
    [warning] = env.said("warning")
    assert "counts 5,000,000 tokens" in warning
    assert "10.00 in place of" in warning
    assert "more than max_price 3" in warning


@by_kind
def test_a_busy_provider_is_asked_again_with_a_bound(kind: str, provider: Provider, env: TuneEnv) -> None:
    busy = Answer({"error": {"message": f"slow down, {KEY}"}}, 429)
    provider.faults[CREATE[kind]] = [busy] * 5
    env.classify(step(provider, kind))
    assert len([text for text in env.said("note") if "answered 429: slow down, …; asking again" in text]) == 5
    assert len(provider.jobs) == 1
    provider.faults[CREATE[kind]] = [Answer({}, 429, {"Retry-After": "3600"})] * 1000
    with pytest.raises(ModelError, match=r"answered 429.*patience_s"):
        env.classify(step(provider, kind, epochs=1, patience_s=0.1))
    assert_no_key(env)


def test_a_broken_look_at_the_job_is_no_end(provider: Provider, env: TuneEnv) -> None:
    provider.looks = 3
    look = "GET /v1/fine_tuning/jobs/ftjob-0"
    provider.faults[look] = [Answer(status=None), Answer(b"<html>", 502), Answer({}, 500), Answer(status=None)]
    env.classify(step(provider))
    assert provider.count(CREATE["openai"]) == 1


@pytest.mark.parametrize(
    ("request_", "answer", "sentence"),
    [
        (
            "POST /v1/files",
            Answer({"error": {"message": "line 4: no messages"}}, 400),
            "answered 400: line 4: no messages",
        ),
        ("POST /v1/fine_tuning/jobs", Answer({"error": {"message": "bad file"}}, 400), "answered 400: bad file"),
        ("POST /v1/fine_tuning/jobs", Answer(b"<html>hello</html>"), "no JSON object: '<html>hello"),
        ("POST /v1/fine_tuning/jobs", Answer([]), "no JSON object"),
        ("POST /v1/fine_tuning/jobs", Answer({"id": 7}), "answered without `id`"),
        ("GET /v1/fine_tuning/jobs/ftjob-0", Answer({"id": "ftjob-0"}), "answered without `status`"),
        ("GET /v1/fine_tuning/jobs", Answer({"error": {"message": f"key {KEY}"}}, 401), "answered 401: key …"),
        ("GET /v1/files", Answer(b"", 302, {"Location": "http://127.0.0.1:1/"}), "answered 302"),
    ],
)
def test_what_is_refused_or_malformed_is_one_clear_error(
    request_: str, answer: Answer, sentence: str, provider: Provider, env: TuneEnv
) -> None:
    provider.faults[request_] = [answer]
    with pytest.raises(LuthierError) as error:
        env.classify(step(provider))
    assert sentence in str(error.value)
    assert_no_key(env, str(error.value))
    env.classify(step(provider))
    assert len(provider.jobs) == 1


@by_kind
def test_a_provider_that_is_busy_for_an_hour_is_waited_for(
    kind: str, provider: Provider, env: TuneEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock is wound on by each wait."""
    slept: list[float] = []
    monkeypatch.setattr(hosted_client, "LONGEST_WAIT_S", 600.0)
    monkeypatch.setattr(hosted_client, "monotonic", lambda: sum(slept))
    monkeypatch.setattr(hosted_client, "sleep", slept.append)
    busy = Answer({"error": {"message": "slow down"}}, 429, {"Retry-After": "600"})
    provider.faults[CREATE[kind]] = [busy] * 5
    env.classify(step(provider, kind, patience_s=3600.0))
    assert sum(slept) == 5 * 600
    assert len(provider.jobs) == 1
    provider.faults[CREATE[kind]] = [busy] * 100
    with pytest.raises(ModelError, match=r"answered 429: slow down, and has not done so for 3600 s"):
        env.classify(step(provider, kind, epochs=1, patience_s=3600.0))
    assert 3000 <= sum(slept) - 5 * 600 <= 3600
    provider.faults[CREATE[kind]] = []
    env.classify(step(provider, kind, epochs=1))
    assert len(provider.jobs) == 2
    assert uploads(provider) == 2


def test_a_job_that_is_done_twice_over_is_one_model(provider: Provider, env: TuneEnv) -> None:
    """The provider says *succeeded*, then *running*, then *succeeded* once more."""
    done = {"id": "ftjob-0", "status": "succeeded", "fine_tuned_model": "ft:one", "trained_tokens": 9}
    look = "GET /v1/fine_tuning/jobs/ftjob-0"
    provider.faults[look] = [Answer({**done, "status": "running"}), Answer(done), Answer({**done, "status": "running"})]
    made = env.classify(step(provider))
    assert get_model_name(made) == "ft:one"
    assert len(provider.jobs) == 1
    assert provider.count(look) == 2


def test_vertex_takes_googles_own_credentials(
    provider: Provider, env: TuneEnv, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    account = {
        "type": "service_account", "project_id": "me", "private_key_id": "1", "private_key": key.decode(),
        "client_email": "me@me.iam.gserviceaccount.com", "client_id": "1", "token_uri": f"{provider.root}/token",
    }  # fmt: skip
    (tmp_path / "account.json").write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "account.json"))
    monkeypatch.delenv("GOOGLE_OAUTH_ACCESS_TOKEN", raising=False)
    env.classify(step(provider, "vertex", key_env="GOOGLE_OAUTH_ACCESS_TOKEN"))
    assert provider.count("POST /token") == 1
    assert f"Bearer {KEY}" in provider.keys
    assert_no_key(env, json.dumps(provider.jobs))
    (tmp_path / "account.json").unlink()
    with pytest.raises(ModelError, match="no credentials of Google Cloud"):
        env.classify(step(provider, "vertex", key_env=None, epochs=1))


def test_an_unknown_model_is_said(provider: Provider, env: TuneEnv) -> None:
    with pytest.raises(ModelError, match="The model unknown does not exist"):
        env.classify(step(provider, model="unknown"))


def test_two_jobs_for_the_same_rows_are_said(provider: Provider, env: TuneEnv) -> None:
    env.classify(step(provider))
    provider.jobs += [{**provider.jobs[0], "id": f"ftjob-{number}"} for number in (1, 2, 3)]
    env.store.remove(env.tune_digest(step(provider)))
    assert again(env, step(provider)).read_json("job.json")["job"] == "ftjob-0"
    [warning] = env.said("warning")
    assert "the provider has 4 jobs for the same rows" in warning
    assert "ftjob-1, ftjob-2, ftjob-3" in warning


def test_events_with_numbers_are_progress(provider: Provider, env: TuneEnv) -> None:
    data = {"step": 4, "total_steps": 9, "train_loss": 0.5}
    provider.events = [
        {"id": "1", "type": "metrics", "data": data, "message": "Step 4", "level": "info"},
        {"id": "2", "type": "message", "message": "careful", "level": "warn"},
    ]
    env.classify(step(provider))
    [progress] = [event for event in env.heard if event.kind == "progress"]
    assert (progress.done, progress.total, dict(progress.measures)) == (4, 9, {"train_loss": 0.5})
    assert env.said("warning") == ["careful"]


def test_a_key_is_named_and_never_written(provider: Provider, env: TuneEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    assert step(provider, key_env="$PROVIDER_KEY") == step(provider)
    for key in (KEY, "sk key"):
        with pytest.raises(ValueError, match="name of an environment variable"):
            step(provider, key_env=key)
    monkeypatch.delenv("PROVIDER_KEY")
    with pytest.raises(ModelError, match="PROVIDER_KEY is not set"):
        env.classify(step(provider))
    for url in ("http://api.openai.com/v1", "https://me:secret@api.openai.com/v1"):
        with pytest.raises(ValueError, match=r"in clear|without a password"):
            step(provider, url=url)


def test_the_outline_is_an_endpoint(provider: Provider) -> None:
    plan = PlanContext(inputs={}, upstream={}, recipe_dir=Path())
    outline = step(provider).outline(plan)
    assert outline == ArtifactSpec(remote=True, merging="never", how="an endpoint")
