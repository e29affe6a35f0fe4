"""What every probe promises: what it names it measures, for every model that can be asked, and the same each time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from documented import undescribed
from eval.probing import bench_of, data_of, pairs_of, pictured_voices, real_voices
from luthier.core.artifact import Artifact
from luthier.core.component import components_by_kind
from luthier.core.store import Store
from luthier.eval.gate_vocabulary import parse_rule
from luthier.eval.media_ablation import EvalMedia
from luthier.eval.model import EvalModel
from luthier.eval.probe import Probe, ProbeMeasure

KINDS = sorted(components_by_kind(Probe))
SETTINGS: dict[str, dict[str, Any]] = {
    "group_gap": {"column": "region", "min": 5},
    "fairness": {"column": "region", "positive": "billing", "min": 5},
    "memorization": {"canaries": ["My code is {4711}"], "drawn": 20},
    "refusal": {"max_new_tokens": 4},
    "attacks": {"max_new_tokens": 4, "requests": 2},
    "generations": {"max_new_tokens": 4, "persons": {"women": ["she"], "men": ["he"]}},
    "leaks": {"max_new_tokens": 8},
    "media_attacks": {"max_new_tokens": 4},
}
"""What a probe cannot do without, or what makes it short."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def places(store: Store) -> dict[bool, tuple[Artifact, list[EvalModel]]]:
    """Data and who answers it: with labels, and with pairs of answers."""
    return {
        paired: (data := pairs_of(store) if paired else data_of(store), real_voices(store, data))
        for paired in (False, True)
    }


@pytest.fixture
def place(
    kind: str, places: dict[bool, tuple[Artifact, list[EvalModel]]], media: EvalMedia, store: Store
) -> tuple[Artifact, list[EvalModel]]:
    if kind == "media_attacks":
        data = places[False][0]
        return data, pictured_voices(store, data, media)
    return places[kind == "preference"]


@pytest.fixture
def media() -> EvalMedia:
    return EvalMedia(None)


@pytest.fixture
def data(place: tuple[Artifact, list[EvalModel]]) -> Artifact:
    return place[0]


@pytest.fixture
def voices(place: tuple[Artifact, list[EvalModel]]) -> list[EvalModel]:
    return place[1]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


def made(kind: str) -> Probe:
    """A probe with its defaults."""
    return components_by_kind(Probe)[kind].model_validate({"kind": kind, **SETTINGS.get(kind, {})})


@pytest.mark.parametrize("kind", KINDS)
def test_it_measures_what_it_declares_and_the_same_each_time(
    kind: str, data: Artifact, voices: list[EvalModel], kept: Path, media: EvalMedia
) -> None:
    """One test for all: what a probe measures takes seconds."""
    probe = made(kind)
    bench, again = (bench_of(data, kept, *voices, media=media) for _ in range(2))
    found = probe.measure(bench)
    assert found
    for one in found:
        has_an_interval_a_power_and_a_difference(one)
        is_known_to_gates(one)
    assert {one.model for one in found} >= {"tuned", "base"}
    assert len({(one.name, one.model) for one in found}) == len(found)
    assert {one.name for one in found} <= set(probe.measures)
    assert all("." in name for name in probe.measures)
    assert made(kind).measure(again) == found
    assert again.kept == bench.kept


def has_an_interval_a_power_and_a_difference(one: ProbeMeasure) -> None:
    assert one.low <= one.value <= one.high
    assert one.rows > 0
    assert one.detectable is not None
    assert one.detectable > 0
    if one.model == "tuned" and one.name != "preference.lift":  # which is about both
        assert "base" in one.against
        assert one.against["base"].low <= one.against["base"].difference <= one.against["base"].high


def is_known_to_gates(one: ProbeMeasure) -> None:
    assert one.signature.startswith(f"{one.name}|v:1|")
    assert parse_rule(f"{one.name} <= base").name == one.name


@pytest.mark.parametrize("kind", KINDS)
def test_documented(kind: str) -> None:
    probe = components_by_kind(Probe)[kind]
    assert len(probe.summary()) > 20
    assert undescribed(probe) == []
