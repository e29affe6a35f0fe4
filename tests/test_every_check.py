"""Every check keeps a check's promises: finds what it documents, is silent on clean data, pure and order-free."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import yaml

from documented import undescribed
from luthier.artifacts.findings import Finding
from luthier.chat.messages import Message
from luthier.core.component import components_by_kind
from luthier.core.errors import RecipeError
from luthier.data.check import Check, CheckResult, PlantedFaults
from luthier.data.steps.prepare import Prepare
from luthier.data.steps.validate import Validate
from luthier.data.validate.context import CheckData, CheckRow
from luthier.models.embedders.lsa import LsaEmbedder

KINDS = sorted(components_by_kind(Check))
_WORDS = {
    "billing": "invoice charge refund payment price receipt card bank fee bill",
    "delivery": "parcel courier address shipment tracking box van driver doorstep warehouse",
    "account": "password login profile email settings username avatar security signin phone",
    "product": "screen battery button cable manual charger keyboard speaker lens strap",
}
_FILLERS = "please today again my the new old order need help since monday cannot find want about now still first last"
_REPLIES = ("You can change the {} in your settings", "Our team looks at the {} and writes back within {} days.")


def clean_rows(task: str, count: int = 480, seed: int = 0) -> list[CheckRow]:
    """Rows without a fault: classes that their words decide, or replies of their own, in two groups."""
    chance = random.Random(seed)
    return [_row(task, number, chance) for number in range(count)]


def _row(task: str, number: int, chance: random.Random) -> CheckRow:
    label = sorted(_WORDS)[number % len(_WORDS)]
    nouns = chance.sample(_WORDS[label].split(), 3)
    words = [*nouns, *chance.sample(_FILLERS.split(" "), chance.randint(4, 9))]
    chance.shuffle(words)
    reply = f"Thank you for writing about the {nouns[0]}. {_REPLIES[0].format(nouns[1])}. "
    reply += _REPLIES[1].format(nouns[2], chance.randint(2, 40))
    answer = label if task == "label" else reply
    messages = (Message(role="user", content=" ".join(words)), Message(role="assistant", content=answer))
    return CheckRow(
        id=f"{chance.getrandbits(64):016x}",
        split="test" if number % 4 == 3 else "train",
        messages=messages,
        label=label if task == "label" else None,
        group=chance.choice(["mail", "web"]),
        meta={"channel": chance.choice(["mail", "web"])},
    )


def _shuffled_splits(rows: Sequence[CheckRow], seed: int) -> list[CheckRow]:
    """The same rows with splits drawn apart from everything else."""
    chance = random.Random(seed)
    return [replace(row, split="test" if chance.random() < 0.25 else "train") for row in rows]


def material(check: Check, rows: Sequence[CheckRow], seed: int = 0) -> CheckData:
    return CheckData(rows, task=_task(check), seed=seed, read_media=PLANTED.__getitem__)


PLANTED: dict[str, bytes] = {}
"""The bytes of media that were planted."""


def planted_faults(check: Check, rows: Sequence[CheckRow]) -> PlantedFaults:
    """Rows with the fault, whose media can be read."""
    planted = check.plant(rows)
    PLANTED.update(planted.media)
    return planted


def _task(check: Check) -> Any:
    return "text" if "texts" in check.needs else "label"


def looked(check: Check, rows: Sequence[CheckRow]) -> list[CheckResult]:
    return list(check.look(material(check, rows)))


def told(found: Sequence[CheckResult]) -> list[tuple[Finding, list[tuple[str, Any, str]]]]:
    return [(one.finding, [(row.id, score, note) for row, score, note in one.marks]) for one in found]


@pytest.fixture(params=[kind for kind in KINDS if "model" not in components_by_kind(Check)[kind].needs])
def check(request: pytest.FixtureRequest) -> Check:
    return Check.parse(request.param)


@pytest.fixture
def clean(check: Check) -> list[CheckRow]:
    return _shuffled_splits(clean_rows(_task(check)), 1)


@pytest.mark.parametrize("kind", KINDS)
def test_is_documented(kind: str) -> None:
    check = Check.parse(kind)
    member = type(check)
    assert member.summary()
    assert member.measures
    assert 0 <= member.false_alarms < 0.1
    assert undescribed(member) == []
    assert Check.parse(check.settings()) == check


def test_finds_the_fault_that_it_documents(check: Check, clean: list[CheckRow]) -> None:
    planted = planted_faults(check, clean)
    found = looked(check, planted.rows)
    assert any(one.finding.severity != "info" for one in found), "the planted fault is not worth a warning"
    marked = {row.id for one in found for row, _, _ in one.marks}
    assert len(planted.ids & marked) >= check.finds * len(planted.ids)


def test_is_silent_on_clean_data(check: Check) -> None:
    alarms = marked = rows = 0
    runs = 5
    for seed in range(runs):
        found = looked(check, _shuffled_splits(clean_rows(_task(check), seed=seed + 10), seed))
        alarms += any(one.finding.severity != "info" for one in found)
        marked += len({row.id for one in found for row, _, _ in one.marks})
        rows += 480
    assert alarms <= max(0, round(check.false_alarms * runs)), "clean data are warned about"
    assert marked <= check.false_alarms * rows


@pytest.mark.matrix("[!mn]*", "media_[ls]*")  # others take a second
def test_is_pure_and_order_free(check: Check, clean: list[CheckRow]) -> None:
    rows = list(planted_faults(check, clean).rows)
    first = told(looked(check, rows))
    assert told(looked(check, rows)) == first
    random.Random(3).shuffle(rows)
    assert told(looked(check, rows)) == first


def test_says_its_numbers_and_a_remedy_that_a_recipe_takes(check: Check, clean: list[CheckRow]) -> None:
    for rows in (clean, planted_faults(check, clean).rows):
        found = looked(check, rows)
        assert {name for one in found for name in one.finding.numbers} == set(check.measures)
        for one in found:
            finding = one.finding
            assert finding.name.partition(".")[0] == check.kind
            assert finding.sentence.endswith(".")
            assert len({row.id for row, _, _ in one.marks}) == len(one.marks)
            assert finding.rows >= len(one.marks)
            assert all(
                low <= number.value <= high for number in finding.numbers.values() for low, high in [number.ends]
            )
            assert finding.hint or finding.severity == "info", "what is wrong has a remedy"
            if finding.mend:
                source = {"kind": "csv", "path": "rows.csv", "prompt": "text", "answer": "label"}
                assert Prepare.model_validate({"kind": "prepare", "source": source, **yaml.safe_load(finding.mend)})


@pytest.mark.matrix(
    "enough", "conflicts", "shift", "bias_terms", "label_errors", "[!en]*_[!qm]*", "profile", "imbalance"
)
def test_every_setting_changes_something(check: Check) -> None:
    kinds: list[Any] = [_task(check)] if check.needs & {"labels", "texts"} else ["label", "text"]
    bench = {task: planted_faults(check, _shuffled_splits(clean_rows(task), 1)).rows for task in kinds}

    def all_told(one: Check) -> Any:
        try:
            data = {task: CheckData(rows, task=task, read_media=PLANTED.__getitem__) for task, rows in bench.items()}
            return [told(list(one.look(rows))) for rows in data.values()]
        except RecipeError as error:
            return str(error)

    before = all_told(check)
    for name in type(check).model_fields:
        if name != "kind":
            others = [check.model_copy(update={name: value}) for value in _others(check, name)]
            assert any(all_told(other) != before for other in others), name


def _others(check: Check, name: str) -> list[Any]:
    """Values of a setting that are unlike its own."""
    choices = type(check).model_json_schema()["properties"][name]
    value = getattr(check, name)
    if name == "embedder":
        return [LsaEmbedder(dimensions=2), LsaEmbedder(texts_a_dimension=3)]
    if "enum" in choices:
        return [one for one in choices["enum"] if one != value]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        kind = type(value)
        least = choices.get("minimum", choices.get("exclusiveMinimum", 0) + 0.01)
        most = choices.get("maximum", choices.get("exclusiveMaximum", value * 50 + 5.01) - 0.01)
        return [kind(min(max(one, least), most)) for one in (least, most, value / 3, value * 3)]
    return ["channel"] if value is None else [value[1:], value[:1]]


@pytest.mark.parametrize("count", [1, 2, 7])
def test_bears_very_few_rows(check: Check, count: int) -> None:
    rows = clean_rows(_task(check), count)
    few = material(check, rows)
    if not check.needs & few.lacks().keys():
        list(check.look(few))


def test_all_and_quick_stand_for_checks_and_settings_replace_defaults() -> None:
    everything = Validate.model_validate({"kind": "validate", "data": "data", "checks": "all"})
    assert sorted(check.kind for check in everything.checks) == KINDS
    own = {"kind": "length_outliers", "far": 9}
    quick = Validate.model_validate({"kind": "validate", "data": "data", "checks": ["quick", own]})
    assert [check.kind for check in quick.checks if not check.quick] == []
    assert [check.far for check in quick.checks if check.kind == "length_outliers"] == [9]  # type: ignore[attr-defined]
    assert Validate(data="data").checks == Validate(data="data", checks="quick").checks  # type: ignore[arg-type]
    assert Validate.model_validate(quick.settings()) == quick
