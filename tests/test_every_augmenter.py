"""Every augmenter keeps an augmenter's promises: parents, seeds, purity, order, share, and never a held-out row."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl
import pytest

from documented import undescribed
from luthier.artifacts.dataset import MADE
from luthier.core.component import components_by_kind
from luthier.data.augmenter import AugmentContext, AugmentedDraft, Augmenter, AugmentRequest
from media import sound
from tests.augmenting import Bench, answer, endpoint_model, rows
from tests.endpoint import serving

AUGMENTERS = components_by_kind(Augmenter)
KINDS = sorted(AUGMENTERS)


def settings_of(kind: str) -> dict[str, Any]:
    """What a kind must be told to have something to do on the sample rows; defaults otherwise."""
    return {"kind": kind, **SETTINGS.get(kind, {})}


SETTINGS: dict[str, dict[str, Any]] = {"swap": {"groups": ["gender", "nationality"]}}
OTHERWISE: dict[tuple[str, str], dict[str, Any]] = {
    ("noise", "typos"): {"typos": 0.6},
    ("noise", "layout"): {"layout": "azerty"},
    ("noise", "ocr"): {"ocr": 0.6},
    ("noise", "sounds"): {"sounds": 0.9},
    ("noise", "case"): {"case": 0.9},
    ("noise", "punctuation"): {"punctuation": 1.0},
    ("noise", "drop"): {"drop": 0.5},
    ("synonyms", "words"): {"words": 1.0},
    ("synonyms", "certainty"): {"certainty": 0.0},
    ("templates", "slots"): {"slots": False},
    ("templates", "longest"): {"longest": 1},
    ("templates", "phrases"): {"slots": False, "phrases": ["Dear all, {text}"]},
    ("swap", "groups"): {"groups": ["age", "religion", "names"]},
    ("balance", "by"): {"by": ["templates"]},
    ("balance", "ratio"): {"ratio": 0.9},
    ("paraphrase", "styles"): {"styles": ["as a poem"]},
    ("paraphrase", "ask"): {"ask": "Say otherwise:\n\n{text}"},
    ("paraphrase", "temperature"): {"temperature": 0.1},
    ("paraphrase", "max_tokens"): {"max_tokens": 5},
    ("back_translation", "via"): {"via": ["it"]},
    ("back_translation", "language"): {"language": "nl"},
    ("back_translation", "temperature"): {"temperature": 0.1},
    ("back_translation", "max_tokens"): {"max_tokens": 5},
    ("instruct", "style"): {"style": "evolve"},
    ("instruct", "shots"): {"shots": 2},
    ("instruct", "apart"): {"apart": 1.0},
    ("instruct", "judge"): {"judge": False},
    ("instruct", "temperature"): {"temperature": 0.1},
    ("instruct", "max_tokens"): {"max_tokens": 5},
    ("image_noise", "column"): {"column": "picture"},
    ("image_noise", "blur"): {"blur": 3.0},
    ("image_noise", "jpeg"): {"jpeg": 0.9},
    ("image_noise", "brightness"): {"brightness": 0.6},
    ("image_noise", "crop"): {"crop": 0.5},
    ("image_noise", "rotate"): {"rotate": 30},
    ("image_noise", "noise"): {"noise": 0.3},
    ("image_noise", "contrast"): {"contrast": 0.5},
    ("image_noise", "color"): {"color": 0.5},
    ("image_noise", "perspective"): {"perspective": 0.3},
    ("audio_noise", "frequency_mask"): {"frequency_mask": 0.3},
    ("audio_noise", "time_mask"): {"time_mask": 0.3},
    ("audio_noise", "snr_db"): {"snr_db": 5},
    ("audio_noise", "speed"): {"speed": 0.3},
    ("audio_noise", "gain_db"): {"gain_db": 20},
}
ELSEWHERE = {
    ("back_translation", "there"),
    ("back_translation", "back"),
    ("image_noise", "folder"),
    ("audio_noise", "noise_folder"),
}
"""Fields that need files, with tests of their own in `tests/data/augment`."""
"""Another value for each field, which must change what comes out."""
FIELDS = [
    (kind, name)
    for kind in KINDS
    for name in AUGMENTERS[kind].model_fields
    if name not in ("kind", "copies") and (kind, name) not in ELSEWHERE
]


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Rows that play something."""
    own = [
        {**row, "sound": f"data:audio/wav;base64,{base64.b64encode(sound(0.05, seed=at)).decode()}"}
        for at, row in enumerate(rows())
    ]
    source = {"media": "read", "media_columns": {"sound": "audio"}}
    return Bench(tmp_path_factory.mktemp("sounds"), own, source=source)


@pytest.fixture
def bench(request: pytest.FixtureRequest, kind: str) -> Bench:
    """Rows for an augmenter of this kind."""
    found: Bench = request.getfixturevalue("sounds" if kind == "audio_noise" else "texts")
    return found


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("bench")
    with serving(answer) as server:
        yield Bench(folder, model=endpoint_model(tmp_path_factory.mktemp("model"), server.url))


def drafts(
    augmenter: Augmenter, wishes: Sequence[AugmentRequest], around: AugmentContext
) -> list[AugmentedDraft | None]:
    return list(augmenter.write(wishes, around))


@pytest.mark.parametrize("kind", KINDS)
def test_is_documented_and_has_defaults(kind: str) -> None:
    member = AUGMENTERS[kind]
    assert len(member.summary()) > 20
    assert undescribed(member) == []
    assert Augmenter.parse(kind) == Augmenter.parse({"kind": kind})
    assert Augmenter.parse(Augmenter.parse(kind).settings()) == Augmenter.parse(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_is_pure_and_its_drafts_do_not_depend_on_each_other(kind: str, bench: Bench) -> None:
    augmenter, around = Augmenter.parse(settings_of(kind)), bench.around()
    wishes = bench.wishes(kind)
    before = copy.deepcopy(wishes)
    together = drafts(augmenter, wishes, around)
    assert drafts(augmenter, wishes, bench.around()) == together
    assert [drafts(augmenter, [wish], around)[0] for wish in wishes] == together
    assert drafts(augmenter, wishes[::-1], around) == together[::-1]
    assert wishes == before
    assert any(draft is not None for draft in together)


@pytest.mark.parametrize("kind", KINDS)
def test_says_what_it_did_and_follows_its_seed(kind: str, bench: Bench) -> None:
    augmenter, around = Augmenter.parse(settings_of(kind)), bench.around()
    wishes = bench.wishes(kind)
    found = drafts(augmenter, wishes, around)
    for wish, draft in zip(wishes, found, strict=True):
        if draft is not None:
            assert draft.did
            assert [message.role for message in draft.messages] == [message.role for message in wish.row.messages]
            assert (draft.messages, {**wish.row.meta, **draft.meta}) != (wish.row.messages, wish.row.meta)
    other = [wish._replace(seed=wish.seed ^ 0x5555, copy=wish.copy + 1) for wish in wishes]
    assert drafts(augmenter, other, around) != found


@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_every_field_changes_something(kind: str, name: str, bench: Bench) -> None:
    assert (kind, name) in OTHERWISE, f"add another value of {kind}.{name} to OTHERWISE"
    told = settings_of(kind)
    once, other = (Augmenter.parse(one) for one in (told, {**told, **OTHERWISE[kind, name]}))
    if once.limits(bench.train.labels) != other.limits(bench.train.labels):
        return
    wishes, around = bench.wishes(kind, 16 if once.asks else 200), bench.around()
    assert drafts(other, wishes, around) != drafts(once, wishes, around)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_the_step_have_parents_and_stay_in_train(kind: str, bench: Bench) -> None:
    made = bench.augment([settings_of(kind)])
    before, after = bench.data, made.artifact
    for entry in before.manifest.files:
        own = ("examples/train.parquet", "events.parquet", "summary.json")
        if entry.path not in own and not entry.path.startswith("media/"):
            assert (before.path(entry.path)).read_bytes() == (after.path(entry.path)).read_bytes()
    old, new = made.frame("train", before), made.frame("train")
    assert new.head(old.height).equals(old)
    real = set(old["id"])
    added = new.slice(old.height)
    assert added.height
    assert new["id"].n_unique() == new.height
    assert real.isdisjoint(added["id"])
    for row in added.iter_rows(named=True):
        told = json.loads(row["meta"])[MADE]
        assert row["source"] == told["by"] == kind
        assert set(told["parents"]) <= real
        assert told["did"]
        parent = old.filter(pl.col("id") == told["parents"][0]).row(0, named=True)
        assert (row["file"], row["line"], row["group"], row["label"]) == tuple(
            parent[name] for name in ("file", "line", "group", "label")
        )


@pytest.mark.parametrize("kind", KINDS)
def test_share_is_kept_and_the_books_balance(kind: str, bench: Bench) -> None:
    made = bench.augment([settings_of(kind)], share=0.1)
    told = made.summary
    real = bench.train_rows
    assert 0 < told.rows["train"] - real <= real / 9
    assert told.rows_in + sum(told.made.values()) == sum(told.rows.values()) + sum(told.dropped.values())
    events = made.events()
    assert events.filter(pl.col("action") == "drop").height == sum(told.dropped.values())
    assert events.filter(pl.col("action") == "make")["id"].n_unique() == told.rows["train"] - real


@pytest.mark.matrix("noise", "audio_noise", "paraphrase", "balance", "synonyms")
@pytest.mark.parametrize("kind", KINDS)
def test_bytes_depend_on_the_seed_and_not_on_the_size_of_a_wave(
    kind: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (bench.augment([settings_of(kind)], seed=seed) for seed in (3, 4))
    assert one.files() != other.files()
    monkeypatch.setattr("luthier.data.augment.loop.WAVE", 3)
    assert bench.augment([settings_of(kind)], seed=3).files() == one.files()


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_are_held_out_are_never_looked_at(kind: str, bench: Bench) -> None:
    """Whatever stands in them: only their near copies are kept away."""
    made = bench.augment([settings_of(kind)])
    held = set(made.frame("test")["id"])
    for row in made.frame("train").iter_rows(named=True):
        told = json.loads(row["meta"]).get(MADE)
        assert told is None or held.isdisjoint(told["parents"])
