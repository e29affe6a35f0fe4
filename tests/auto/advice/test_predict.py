"""Predictions from evidence: intervals widen where it is thin, limits are hard, and what turns the ranking is said."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.auto.advice.cost import TECHNIQUES
from luthier.auto.advice.evidence import EvidenceRecord, read_shipped_evidence
from luthier.auto.advice.predict import (
    AdviceLimits,
    AdviceTarget,
    ModelChoice,
    RankedTechnique,
    TechniqueCost,
    TechniqueRanking,
    rank_techniques,
)
from luthier.auto.advice.profile import AdviceProfile
from luthier.data.suggest.separability import LabelSeparability

SMALL = 134_515_008


def profile(accuracy: float = 0.8, rows: int = 200, **more: Any) -> AdviceProfile:
    found = LabelSeparability(rows=200, accuracy={50: accuracy - 0.2, 199: accuracy}, macro_f1=accuracy - 0.02)
    return AdviceProfile(
        **{
            "task": "label",
            "rows": rows,
            "held_out": 200,
            "classes": 5,
            "prompt_words": 12,
            "separability": found,
            **more,
        }
    )


def costs(**changed: TechniqueCost) -> dict[ModelChoice, TechniqueCost]:
    seconds = {"plain": 3.0, "base": 20.0}
    return {
        ModelChoice(one, "" if one == "plain" else "small", 0 if one == "plain" else SMALL): changed.get(
            one,
            TechniqueCost(
                seconds=seconds.get(one, 200.0),
                peak_bytes=int(4e8 if one == "plain" else 5e9 if one == "full" else 2e9),
                latency_s=0.002 if one == "plain" else 0.3,
            ),
        )
        for one in TECHNIQUES
    }


def ranked(about: AdviceProfile, **more: Any) -> TechniqueRanking:
    given_costs = more.pop("costs", None) or costs()
    records = more.pop("records", read_shipped_evidence())
    return rank_techniques(about, given_costs, records, **{"metric": "accuracy", **more})


def named(found: TechniqueRanking, technique: str) -> RankedTechnique:
    return next(one for one in found.techniques if one.technique == technique)


def test_every_technique_is_ranked_once_with_reason_and_interval() -> None:
    found = ranked(profile())
    assert sorted(one.technique for one in found.techniques) == sorted(TECHNIQUES)
    assert found.first is not None
    assert found.first.technique == "lora"
    for one in found.techniques:
        assert 0 <= one.low < one.quality < one.high <= 1
        assert one.reason
        assert one.chance is None


def test_words_that_decide_alone_need_no_network() -> None:
    found = ranked(profile(0.99))
    assert found.first is not None
    assert found.first.technique == "plain"
    assert found.first.evidence


def test_a_base_model_that_knows_it_already_is_not_tuned() -> None:
    probe = EvidenceRecord(
        kind="probe", set="these rows", task="label", technique="base", metric="accuracy", value=0.99, rows=200,
        train_rows=200, classes=5, source="asked just now",
    )  # fmt: skip
    found = ranked(profile(0.6), records=(*read_shipped_evidence(), probe))
    assert found.first is not None
    assert found.first.technique == "base"


def test_limits_are_hard_and_say_by_how_much() -> None:
    found = ranked(profile(), limits=AdviceLimits(seconds=60, peak_bytes=1e9, latency_s=0.1))
    assert [one.technique for one in found.techniques if not one.left_out] == ["plain"]
    assert "training and measuring take 3:20, the budget is 1:00" in named(found, "lora").left_out
    assert (
        "2.0 GB, the limit is 1.0 GB" in named(ranked(profile(), limits=AdviceLimits(peak_bytes=1e9)), "lora").left_out
    )
    assert (
        "300 ms, the limit is 100 ms" in named(ranked(profile(), limits=AdviceLimits(latency_s=0.1)), "lora").left_out
    )


def test_nothing_left_is_no_choice() -> None:
    found = ranked(profile(), limits=AdviceLimits(seconds=0.5))
    assert found.first is None
    assert found.turns == ("a budget of 3:20 makes lora the first choice",)


def test_what_turns_the_ranking_is_said() -> None:
    assert "a budget of 3:20 makes lora the first choice" in ranked(profile(), limits=AdviceLimits(seconds=60)).turns
    assert (
        "memory of 2.0 GB makes lora the first choice" in ranked(profile(), limits=AdviceLimits(peak_bytes=1e9)).turns
    )
    assert "a budget below 3:20 makes plain the first choice" in ranked(profile()).turns


def test_a_choice_among_base_models_names_the_model() -> None:
    known = costs()
    lora = next(choice for choice in known if choice.technique == "lora")
    other = lora._replace(model="faster", parameters=SMALL // 10)
    found = ranked(profile(), costs={**known, other: known[lora]._replace(seconds=150.0)})
    assert "a budget below 3:20 makes lora over faster the first choice" in found.turns


def test_refused_techniques_are_left_out_with_their_reason() -> None:
    found = ranked(profile(), costs=costs(qlora=TechniqueCost(refused="bitsandbytes is not installed")))
    assert named(found, "qlora").left_out == "bitsandbytes is not installed"
    assert found.techniques[-1].technique == "qlora"


def test_the_chance_falls_with_the_target() -> None:
    chances = [
        named(ranked(profile(), target=AdviceTarget("accuracy", value)), "lora").chance
        for value in (0.5, 0.8, 0.9, 0.99)
    ]
    high, *_, low = [one for one in chances if one is not None]
    assert chances == sorted(chances, key=lambda one: -(one or 0))
    assert high > 0.9
    assert low < 0.1


def test_thin_evidence_widens() -> None:
    def width(one: RankedTechnique) -> float:
        return one.high - one.low

    alike, none = ranked(profile()), ranked(profile(), records=())
    assert width(named(none, "lora")) > width(named(alike, "lora"))
    far = ranked(profile(prompt_words=4000, classes=150))
    assert width(named(far, "prompt")) > width(named(far, "lora")) > width(named(alike, "lora"))


def test_the_standard_comes_first_where_evidence_is_thin() -> None:
    few = profile(0.5, rows=8, held_out=2).model_copy(update={"separability": None, "classes": 3})
    found = ranked(few)
    assert found.first is not None
    assert found.first.technique == "lora"
    assert all(one.thin for one in found.techniques)
    without = ranked(few, limits=AdviceLimits(peak_bytes=0.5e9))
    assert without.first is None or without.first.technique != "lora"


def test_what_was_not_measured_on_such_rows_comes_after_what_was() -> None:
    found = ranked(profile(0.8))
    thin = {one.technique for one in found.techniques if one.thin.startswith("it was not measured")}
    assert {"full", "qlora", "ia3", "prompt_search", "base"} <= thin
    assert not {"lora", "plain"} & thin


def test_past_runs_move_the_prediction() -> None:
    past = [
        EvidenceRecord(
            kind="past run", set=f"run {number}", task="label", technique="ia3", metric="accuracy", value=0.97,
            rows=300, train_rows=200, classes=5, prompt_words=12, parameters=SMALL, plain=0.8, source="here",
        )
        for number in range(8)
    ]  # fmt: skip
    before, after = ranked(profile()), ranked(profile(), records=(*read_shipped_evidence(), *past))
    assert named(after, "ia3").quality > named(before, "ia3").quality
    assert after.first is not None
    assert after.first.technique == "ia3"
    assert any("past run" in sentence for sentence in after.first.evidence)


def test_texts_have_no_plain_classifier_and_a_wide_interval() -> None:
    about = AdviceProfile(task="text", rows=400, prompt_words=20, answer_words=100)
    found = ranked(about, metric="rougeL", costs=costs(plain=TechniqueCost(refused="the answers are free text")))
    assert found.first is not None
    assert found.first.technique == "lora"
    assert found.first.high - found.first.low > 0.4


@given(st.floats(0.0, 1.0), st.integers(1, 10**7), st.integers(2, 1000), st.floats(0, 1e5), st.integers(1, 10**6))
def test_any_profile_is_ranked(accuracy: float, rows: int, classes: int, words: float, held_out: int) -> None:
    found = LabelSeparability(rows=20, accuracy={19: accuracy}, macro_f1=accuracy)
    about = AdviceProfile(
        task="label", rows=rows, held_out=held_out, classes=classes, prompt_words=words, separability=found
    )
    for one in ranked(about).techniques:
        assert 0 <= one.low <= one.quality <= one.high <= 1


@pytest.mark.parametrize("record", read_shipped_evidence(), ids=lambda one: f"{one.set}, {one.technique}, {one.value}")
def test_each_record_has_its_source(record: EvidenceRecord) -> None:
    assert record.source.startswith(("benchmarks/results/", "huggingface/peft ", "docs/"))
    assert record.sentence
