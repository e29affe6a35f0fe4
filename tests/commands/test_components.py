"""What `luthier components`, the reference and the forms list of a part."""

from __future__ import annotations

from typing import Any

from luthier.commands.components import (
    describe_role_components,
    find_component,
    list_component_roles,
    list_component_settings,
)


def told(role: str, kind: str) -> dict[str, dict[str, Any]]:
    return {setting["name"]: setting for setting in list_component_settings(find_component(role, kind))}


def test_what_a_setting_holds_is_listed_by_its_overrides_name() -> None:
    found = told("step", "prepare")
    assert found["split"]["default"] == {"test": 0.1, "validation": 0}
    assert found["split.test"]["default"] == 0.1
    assert found["split.test"]["about"].startswith("Rows for the final measure")
    assert "kind" not in found
    assert told("source", "csv")["turns.order"]["default"] is None, "also where the setting may be left out"
    assert told("objective", "grpo")["kl.coefficient"]["default"] == "required"


def test_a_part_within_a_part_has_a_page_of_its_own() -> None:
    found = told("step", "tune")
    assert found["technique"]["type"] == "technique"
    assert not [name for name in found if name.startswith("technique.")]


def test_every_setting_of_every_part_is_described() -> None:
    every = [(role, kind) for role, base in list_component_roles().items() for kind in describe_role_components(base)]
    every = [
        one for one in every if find_component(*one).__module__.startswith("luthier.")
    ]  # tests have toys of their own
    assert len(every) > 100
    missing = [(role, kind, name) for role, kind in every for name, one in told(role, kind).items() if not one["about"]]
    assert missing == []


def test_every_part_is_summed_up_in_a_whole_sentence() -> None:
    every = {
        (role, kind): find_component(role, kind)
        for role, base in list_component_roles().items()
        for kind in describe_role_components(base)
    }
    ours = {name: part.summary() for name, part in every.items() if part.__module__.startswith("luthier.")}
    assert {name: told for name, told in ours.items() if not told.endswith((".", "?"))} == {}
