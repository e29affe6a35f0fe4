"""How a study stands: agreement with its intervals, judging models beside people, and no heavy library."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from eval.human.panel import assigned, careless, judged, preferring
from luthier.annotation.questions.comparison import PairQuestion
from luthier.annotation.questions.rating import RatingScaleQuestion
from luthier.artifacts.annotation import Annotation
from luthier.eval.human.standings import StudyStandings, compare_raters, compute_study_standings
from luthier.eval.human.tally import RatingTally

PAIR, RATING = PairQuestion(), RatingScaleQuestion()
MODELS = ("tuned", "base")


def _standings(scores: Mapping[str, Mapping[tuple[str, str], float]], *, ties: float = 0.0) -> StudyStandings:
    asked = assigned(PAIR, 60)
    tastes = {**dict.fromkeys(asked.sheets, preferring("tuned", 0.85, ties=ties)), "cleo": careless}
    tally = RatingTally(asked, PAIR, MODELS)
    tally.extend(judged(asked, tastes))
    return compute_study_standings(tally, asked, PAIR, MODELS, scores)


def test_people_are_shown_with_what_counts_and_how_far_they_agree() -> None:
    found = _standings({})
    assert found.stop.startswith("You may stop: tuned is better")
    assert [one.name for one in found.strengths] == ["tuned", "base"]
    assert found.strengths[0].plain.low > 0
    assert set(found.effects) == {"length", "mark-up"}
    assert {one.name: one.counts for one in found.judges} == {"anna": True, "ben": True, "cleo": False}
    (people,) = found.agreement
    assert people.low <= people.share <= people.high
    assert people.kappa is not None


def test_judging_models_are_held_against_people() -> None:
    alike = {(f"row{n:03d}", model): float(model == "tuned") for n in range(60) for model in MODELS}
    turned = {place: 1 - score for place, score in alike.items()}
    found = {one.name: one for one in _standings({"judge": alike, "reward": turned}).agreement}
    assert found["a judging model with people"].share > 0.7
    assert found["a reward model with people"].share < 0.3
    assert found["a judging model with people"].rows <= 60


def test_agreement_is_that_of_scikit_learn_and_its_interval_holds_the_truth() -> None:
    from sklearn.metrics import cohen_kappa_score

    chance, inside = np.random.default_rng(2), 0
    for _ in range(60):
        one = chance.integers(3, size=120)
        other = np.where(chance.random(120) < 0.6, one, chance.integers(3, size=120))
        pairs = [(str(row), int(a), int(b)) for row, (a, b) in enumerate(zip(one, other, strict=True))]
        found = compare_raters("both", pairs)
        assert found is not None
        assert found.kappa == pytest.approx(cohen_kappa_score(one, other))
        assert found.share == pytest.approx(float((one == other).mean()))
        inside += (found.kappa_low or 0) <= 0.6 <= (found.kappa_high or 0)
    assert inside >= 53
    assert compare_raters("nobody", []) is None
    same = compare_raters("one mind", [("1", "a", "a"), ("2", "a", "a")])
    assert same is not None
    assert (same.share, same.kappa) == (1.0, None)


def test_answers_alone_and_one_model_alone_have_standings_too() -> None:
    for models in (MODELS, ("tuned",)):
        asked = assigned(RATING, 30, models=models, planted=0)
        tally = RatingTally(asked, RATING, models)
        points = {item: 5 if entry.models == ("tuned",) else 2 for item, entry in asked.key.items()}
        tally.extend(Annotation(judge, points[item], item) for judge, sheet in asked.sheets.items() for item in sheet)
        found = compute_study_standings(tally, asked, RATING, models, {})
        assert found.strengths == ()
        assert len(found.pairs) == len(models) - 1
        assert found.stop.startswith("You may stop: tuned is better" if len(models) == 2 else "One model is judged")
    nothing = compute_study_standings(RatingTally(asked, RATING, MODELS), asked, RATING, MODELS, {})
    assert nothing.stop == "Nothing is judged yet."


def test_a_web_server_needs_no_heavy_library_for_it() -> None:
    code = (
        "import sys\nfrom eval.human.test_standings import _standings\nbefore = set(sys.modules)\n_standings({})\n"
        "heavy = {'torch', 'transformers', 'scipy'} & (set(sys.modules) - before)\nassert not heavy, heavy\n"
        "assert 'scipy' not in before, 'what the test itself loads would hide it'\n"
    )
    tests = Path(__file__).parent.parent.parent
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], env=env, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
