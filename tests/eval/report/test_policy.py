"""A model that learnt from its own answers: what they were worth as curves, and the same prompts over time."""

from __future__ import annotations

import json

from luthier.eval.report.collect_tuning import _log, _samples
from luthier.eval.report.facts.tuning import LogPoint, PolicySampleFact, TuningFacts
from luthier.eval.report.html import render_report_page
from tests.eval.report import example

LINES = [
    {
        "step": at, "loss": 0.01 / at, "lr": 0.1, "grad_norm": 1.0, "reward": 0.1 * at, "reward_numeric": 0.1 * at,
        "reward_length": -0.5, "reward_spread": 0.2, "reward_faults": 0.0, "kl": None, "entropy": 1.5, "length": 9.0,
        "clipped": 0.0, "equal_prompts": 0.25, "truncated": 0.5,
        **({"samples": [{"id": "b", "answer": f"at <b>{at}", "reward": 1.0},
                        {"id": "a", "answer": "x", "reward": None}]} if at % 2 else {}),
    }
    for at in range(1, 6)
]  # fmt: skip


def tuning() -> TuningFacts:
    lines = json.loads(json.dumps(LINES))
    return TuningFacts(name="tune", technique="lora", objective="grpo", log=_log(lines), samples=_samples(lines))


def test_what_is_told_of_a_policy_is_read_from_its_log() -> None:
    first = tuning().log[0]
    assert first.drawn == {
        "reward": 0.1, "reward_length": -0.5, "reward_numeric": 0.1, "entropy": 1.5, "length": 9.0, "clipped": 0.0,
        "equal_prompts": 0.25, "truncated": 0.5,
    }  # fmt: skip
    assert [(one.id, one.step) for one in tuning().samples] == [
        ("b", 1),
        ("b", 3),
        ("b", 5),
        ("a", 1),
        ("a", 3),
        ("a", 5),
    ]
    assert tuning().samples[0] == PolicySampleFact(step=1, id="b", answer="at <b>1", reward=1.0)


def test_one_reward_alone_is_not_shown_twice() -> None:
    lines = [{name: value for name, value in LINES[0].items() if name != "reward_length"}]
    assert "reward_numeric" not in _log(lines)[0].drawn


def test_the_page_shows_curves_and_answers_as_text() -> None:
    page = render_report_page(example.facts(tunings=(tuning(),)))
    assert "Reward and divergence during training" in page
    assert "How the loss fell" not in page
    assert "equal_prompts" in page
    assert "The same prompts over time" in page
    assert "at &lt;b&gt;3" in page


def test_held_out_rewards_are_told_from_those_of_the_training() -> None:
    lines = json.loads(json.dumps(LINES))
    lines[4] |= {"held_out_loss": -0.4, "held_out_reward": 0.4}
    facts = tuning().model_copy(update={"log": _log(lines)})
    assert (facts.log[4].held_out_loss, facts.log[4].held_out) == (None, {"reward": 0.4})
    assert ">held out reward<" in render_report_page(example.facts(tunings=(facts,)))


def test_the_page_says_why_a_training_ended_early() -> None:
    why = "after step 5: its answers are 0.7 nats a token away from where it began, and 0.5 are allowed (stop.kl)"
    assert f"<dt>Stopped</dt><dd>{why}</dd>" in render_report_page(
        example.facts(tunings=(tuning().model_copy(update={"stopped": why}),))
    )
    assert "<dt>Stopped</dt>" not in render_report_page(example.facts(tunings=(tuning(),)))


def test_a_training_on_given_answers_is_shown_as_before() -> None:
    page = render_report_page(example.facts())
    assert "How the loss fell" in page
    assert "The same prompts over time" not in page
    assert LogPoint(step=1).drawn == {}
