"""Sites that compare rows: they leave out what `near_dedup` finds over the pooled rows, and nothing else is learnt."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compared_sites import FEDERATION, SETTINGS, Group, build_group, change_words, draw_texts
from luthier.artifacts.dataset import DatasetSummary, read_examples
from luthier.core.artifact import Artifact
from luthier.core.errors import DataError
from luthier.data.dedup.near import NearDuplicateIndex
from luthier.federated.decontamination.bands import _build_row, encode_elements, read_bands
from luthier.federated.decontamination.curve import hash_to_points
from luthier.federated.decontamination.settings import DecontaminationSettings
from luthier.federated.decontamination.site import (
    FOLDER,
    LEFT_OUT,
    REASON,
    count_left_out,
    find_remaining_rows,
)
from luthier.federated.errors import OrderError
from luthier.federated.messaging.keys import FederationIdentity
from luthier.federated.messaging.messages import pack_tensors
from luthier.federated.sites.policy import SitePolicy, SitePolicyError

NAMES = ("north", "south", "west")


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Group, dict[str, set[str]]]:
    """Three sites that compared rows; at north stand copies and variants of rows that the others hold out."""
    own = draw_texts(80, 1)
    south, west = own[:12], own[12:24]
    copies = [*south[:3], *(change_words(text, 1, at) for at, text in enumerate(south[3:12]))]
    copies += [change_words(text, 1 + at % 4, at) for at, text in enumerate(west[:12])]
    group = build_group(
        tmp_path_factory.mktemp("compared"),
        {
            "north": (own[24:44] + copies, own[44:48]),
            "south": (own[48:58], south),
            "west": ([*own[58:68], own[44].upper()], west),
        },
    )
    return group, group.compare()


def list_pooled(data: Mapping[str, Artifact], name: str, threshold: float) -> set[str]:
    """Ids of training rows of a site that are verified near copies of a held-out row of another."""
    held = [
        _build_row(row) for other in data if other != name for split in ("validation", "test")
        for row in read_examples(data[other], split)
    ]  # fmt: skip
    index = NearDuplicateIndex(threshold, iter(held), held.__getitem__)
    rows = [_build_row(row) for row in read_examples(data[name], "train")]
    return {row.id for row, found in zip(rows, index.nearest_of(rows), strict=True) if found is not None}


def test_sites_leave_out_what_near_dedup_finds_over_the_pooled_rows(
    compared: tuple[Group, dict[str, set[str]]],
) -> None:
    group, found = compared
    data = {name: work.inputs["data"] for name, work in group.works.items()}
    for name in NAMES:
        pooled = list_pooled(data, name, SETTINGS.threshold)
        assert pooled <= found[name] <= list_pooled(data, name, 0.7)
    assert len(found["north"]) >= 12
    assert len(found["west"]) == 1
    assert not found["south"]
    assert {peer for line in group.read_left_out("north") for peer in line["held_out_by"]} == {"south", "west"}


def test_the_rows_that_remain_are_a_data_set_whose_books_balance(compared: tuple[Group, dict[str, set[str]]]) -> None:
    group, found = compared
    work = group.works["north"]
    remaining = find_remaining_rows(work)
    assert remaining.digest != work.inputs["data"].digest
    assert {row.id for row in read_examples(work.inputs["data"], "train")} - found["north"] == {
        row.id for row in read_examples(remaining, "train")
    }
    assert read_examples(remaining, "test") == read_examples(work.inputs["data"], "test")
    summary = DatasetSummary.read(remaining)
    assert summary.dropped == {REASON: len(found["north"])}
    assert count_left_out(work.scratch) == len(found["north"])
    assert find_remaining_rows(group.works["south"]) is group.works["south"].inputs["data"]
    assert any("0 training rows left out" in note for note in group.notes)


def test_a_site_that_was_killed_after_it_left_rows_out_comes_to_the_same(
    compared: tuple[Group, dict[str, set[str]]],
) -> None:
    """Its secret lay in scratch until then, and is gone."""
    group, found = compared
    assert not [path for work in group.works.values() for path in work.scratch.rglob("blind.key")]
    before = find_remaining_rows(group.works["north"]).digest
    assert group.open("north").leave_out(5, {}, None) == len(found["north"])
    assert find_remaining_rows(group.works["north"]).digest == before


def test_only_sizes_are_seen_and_near_ones_look_alike(tmp_path: Path) -> None:
    """What travels has the same size whether something repeats or not, and for one row more or less."""
    own = draw_texts(40, 2)
    sizes = []
    for at, rows in enumerate(
        [
            {"north": (own[:12], own[12:20]), "south": (own[20:33], own[33:40])},
            {"north": (own[:13], own[13:21]), "south": (own[13:26], own[33:40])},
        ]
    ):
        group = build_group(tmp_path / str(at), rows)
        asked = group.ask()
        answered = group.evaluate(asked, 2)
        more = group.ask_more(answered)
        every = (asked, answered, more, group.evaluate(more, 4))
        envelopes = [value for by in every for each in by.values() for value in each.values()]
        sizes.append([len(value) for value in envelopes])
        points = group.open_envelope("north", "south", asked["north"][group.fingerprint("south")], 1)["points"]
        bands = np.unique(read_bands(group.works["north"].inputs["data"], ["train"], SETTINGS))
        plain = set(hash_to_points(encode_elements(bands, SETTINGS)))
        assert not {bytes(one.tolist()) for one in points} & plain, "who guesses a text finds no point of it"
        again = group.open("north").ask(1)[group.fingerprint("south")]
        fresh = group.open_envelope("north", "south", again, 1)["points"]
        assert not {bytes(one.tolist()) for one in points} & {bytes(one.tolist()) for one in fresh}
        tags = group.open_envelope("south", "north", answered["south"][group.fingerprint("north")], 2)["tags"]
        assert len({bytes(tag.tolist()[:8]) for tag in tags}) == len(tags)
    assert sizes[0] == sizes[1]


def test_a_site_that_holds_nothing_out_answers_like_others(tmp_path: Path) -> None:
    own = draw_texts(20, 10)
    group = build_group(tmp_path, {"north": ([*own[:8], own[12]], []), "south": (own[8:12], own[12:16])})
    asked = group.ask()
    answer = group.open("north").evaluate(2, group.deal(asked, "north"))[group.fingerprint("south")]
    other = group.open("south").evaluate(2, group.deal(asked, "south"))[group.fingerprint("north")]
    assert len(answer) == len(other)
    found = group.compare()
    assert len(found["north"]) == 1
    assert not found["south"]


def test_equal_rows_do_not_show_in_tags(tmp_path: Path) -> None:
    """A row that is held out thrice has one set of tags; bands that several rows share have tags that differ."""
    own = draw_texts(20, 3)
    near = [change_words(own[0], 1, at) for at in range(5)]
    group = build_group(tmp_path, {"north": ([own[0], *own[5:10]], own[10:12]), "south": (own[12:20], [*near, *near])})
    found = group.compare()
    assert len(found["north"]) == 1


def test_a_share_beyond_the_policy_is_refused_without_a_number(tmp_path: Path) -> None:
    own = draw_texts(40, 4)
    group = build_group(tmp_path, {"north": (own[:20], own[20:22]), "south": (own[22:30], own[:5])})
    envelopes = group.deal(group.verify(), "north")
    policy = {"name": "north", "coordinator": "card.json", "recipe": "recipe.yaml", "least_rows": 5}
    with pytest.raises(SitePolicyError, match=r"most_left_out.*more than 10.0% of the training rows") as refused:
        group.open("north").leave_out(5, envelopes, SitePolicy.model_validate(policy))
    assert "25" not in str(refused.value)
    few = SitePolicy.model_validate({**policy, "most_left_out": 0.9, "least_rows": 16})
    with pytest.raises(SitePolicyError, match="too few training rows"):
        group.open("north").leave_out(5, envelopes, few)
    assert group.open("north").leave_out(5, envelopes, few.model_copy(update={"least_rows": 15})) == 5


def test_a_site_of_whose_rows_none_remains_says_so(tmp_path: Path) -> None:
    own = draw_texts(12, 5)
    group = build_group(tmp_path, {"north": (own[:4], own[4:6]), "south": (own[6:12], own[:4])})
    with pytest.raises(DataError, match="every training row here nearly repeats"):
        group.compare()


def test_more_rows_than_agreed_are_refused_at_both_ends(tmp_path: Path) -> None:
    own = draw_texts(60, 6)
    group = build_group(tmp_path, {"north": (own[:40], own[40:42]), "south": (own[42:50], own[50:60])})
    small = DecontaminationSettings(max_rows=20)
    with pytest.raises(OrderError, match="more than 20 training rows here"):
        group.open("north", small).ask(1)
    asked = group.ask()
    with pytest.raises(OrderError, match="north asks about 1,280 elements, more than 20 rows have"):
        group.open("south", small).evaluate(2, group.deal(asked, "south"))
    with pytest.raises(OrderError, match="more than 8 held-out rows here"):
        group.open("south", DecontaminationSettings(max_rows=8)).evaluate(2, group.deal(asked, "south"))


@dataclass
class Stage:
    """Two sites that asked and answered, before anything is left out."""

    group: Group
    asked: dict[str, dict[str, Any]]
    answered: dict[str, dict[str, Any]]

    def question(self) -> Any:
        return self.asked["north"][self.group.fingerprint("south")]

    def answer(self) -> Any:
        return self.answered["south"][self.group.fingerprint("north")]

    def read_question(self) -> dict[str, Any]:
        return self.group.open_envelope("north", "south", self.question(), 1)

    def read_answer(self) -> dict[str, Any]:
        return self.group.open_envelope("south", "north", self.answer(), 2)

    def evaluate(self, envelope: Any) -> None:
        self.group.open("south").evaluate(2, {self.group.fingerprint("north"): envelope})

    def ask_more(self, envelope: Any) -> None:
        self.group.open("north").ask_more(3, {self.group.fingerprint("south"): envelope})


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    own = draw_texts(40, 7)
    group = build_group(
        tmp_path_factory.mktemp("stage"), {"north": (own[:20], own[20:22]), "south": (own[22:40], own[:2])}
    )
    asked = group.ask()
    return Stage(group, asked, group.evaluate(asked, 2))


IDENTITY = torch.tensor([1, *[0] * 31], dtype=torch.uint8)


def spoil(points: Any, point: Any) -> Any:
    changed = points.clone()
    changed[0] = point
    return changed


def forge(stage: Stage, tensors: Mapping[str, Any], **about: Any) -> Any:
    """An answer of south with other contents."""
    return stage.group.reseal("south", "north", tensors, about.get("number", 2), about.get("name", FEDERATION))


QUESTIONS: dict[str, tuple[Any, str]] = {
    "the identity": (lambda s, t: {"points": spoil(t["points"], IDENTITY)}, "no point of the agreed group"),
    "no encoding": (
        lambda s, t: {"points": spoil(t["points"], torch.full((32,), 255, dtype=torch.uint8))},
        "no point of the agreed group",
    ),
    "short points": (lambda s, t: {"points": t["points"][:, :31].contiguous()}, "not as it was agreed"),
    "numbers": (lambda s, t: {"points": t["points"].float()}, "not as it was agreed"),
    "nothing": (lambda s, t: {"other": t["points"]}, "not as it was agreed"),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_that_is_none_is_one_clear_error(stage: Stage, name: str) -> None:
    change, why = QUESTIONS[name]
    envelope = stage.group.reseal("north", "south", change(stage, stage.read_question()), 1)
    with pytest.raises(OrderError, match=why):
        stage.evaluate(envelope)


ANSWERS: dict[str, tuple[Any, str]] = {
    "the identity": (lambda s, t: forge(s, {**t, "points": spoil(t["points"], IDENTITY)}), "no point of the agreed"),
    "fewer points": (
        lambda s, t: forge(s, {**t, "points": t["points"][:-1].clone()}),
        "answers about 639 points of 640",
    ),
    "to another question": (
        lambda s, t: forge(s, {**t, "answers": torch.zeros(32, dtype=torch.uint8)}),
        "answers another question",
    ),
    "no tags": (lambda s, t: forge(s, {**t, "tags": t["tags"][:, :8].contiguous()}), "not as it was agreed"),
    "of another federation": (lambda s, t: forge(s, t, name="cd" * 16), "belongs to another federation"),
    "of another message": (lambda s, t: forge(s, t, number=5), "has number 5 where 2 was expected"),
    "its own question": (lambda s, t: s.question(), "is signed by"),
    "numbers": (lambda s, t: s.answer().bfloat16(), "no envelope"),
    "changed on the way": (lambda s, t: spoil(s.answer(), 7 - int(s.answer()[0]) % 2), "no envelope"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_that_is_none_is_one_clear_error_and_nothing_is_left_out(stage: Stage, name: str) -> None:
    build, why = ANSWERS[name]
    with pytest.raises(OrderError, match=why):
        stage.ask_more(build(stage, stage.read_answer()))
    assert not (stage.group.works["north"].scratch / FOLDER / LEFT_OUT).exists()


def test_a_coordinator_that_replays_an_older_answer_is_noticed(tmp_path: Path) -> None:
    """It was recorded from an earlier run of the same federation, whose folder was deleted since."""
    own = draw_texts(20, 8)
    rows = {"north": (own[:8], own[8:10]), "south": (own[10:18], own[:2])}
    group = build_group(tmp_path, rows)
    asked = group.ask()
    older = group.open("south").evaluate(2, group.deal(asked, "south"))
    group.open("north").ask(1)
    with pytest.raises(OrderError, match="answers another question than was asked here"):
        group.open("north").ask_more(3, group.deal({"south": older}, "north"))


def test_a_site_that_is_no_peer_and_a_peer_that_is_left_away_are_refused(stage: Stage) -> None:
    stranger = FederationIdentity.create("north")
    south = stage.group.identities["south"].card
    sealed = stranger.seal(pack_tensors(stage.read_question()), south, FEDERATION, 1)
    envelope = torch.frombuffer(bytearray(sealed), dtype=torch.uint8)
    with pytest.raises(OrderError, match="not of all peers"):
        stage.group.open("south").evaluate(2, {stranger.card.fingerprint: envelope})
    with pytest.raises(OrderError, match="is not from north: an envelope is signed by"):
        stage.evaluate(envelope)
    with pytest.raises(OrderError, match="not of all peers"):
        stage.group.open("north").ask_more(3, {})


def test_an_answer_before_any_question_is_refused(tmp_path: Path) -> None:
    """The site's own question was deleted since."""
    own = draw_texts(20, 9)
    group = build_group(tmp_path, {"north": (own[:8], own[8:10]), "south": (own[10:18], own[:2])})
    answered = group.evaluate(group.ask(), 2)
    shutil.rmtree(group.works["north"].scratch / FOLDER)
    with pytest.raises(OrderError, match="nothing was asked"):
        group.open("north").ask_more(3, group.deal(answered, "north"))
    with pytest.raises(OrderError, match="nothing was asked"):
        group.open("north").leave_out(5, {}, None)


def test_a_peer_that_claims_every_row_reaches_the_policy_alone(stage: Stage) -> None:
    """Tags are of values that only the asking site's elements and this key give: without a guess, none is met."""
    answer = stage.read_answer()
    chance = torch.Generator().manual_seed(1)
    tags = torch.randint(0, 256, (5000, 12), generator=chance, dtype=torch.uint8)
    south = stage.group.fingerprint("south")
    stage.ask_more(forge(stage, {**answer, "tags": tags}))
    assert not len(np.load(stage.group.works["north"].scratch / FOLDER / south / "candidates.npy"))
