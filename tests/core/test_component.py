"""Parts: registered by being defined, found in their home, made from an instance, a mapping or a bare kind."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from pydantic import BaseModel, Field, ValidationError

from luthier.core.component import (
    Component,
    component_of_kind,
    components_by_kind,
    full_schema,
    iter_components,
    roles_by_name,
)
from luthier.core.errors import UnknownName

COUNTER = itertools.count()


class Shape(Component):
    """A shape, for these tests."""

    role: ClassVar[str] = "test_shape"
    home: ClassVar[str] = "luthier.core"  # its members stand below, in this file

    def area(self) -> float:
        """Square units."""
        return 0.0


class Dot(Shape):
    """A dot. It has no settings."""

    kind: Literal["dot"] = "dot"


class Square(Shape):
    """A square.

    More words on squares.
    """

    kind: Literal["square"] = "square"
    side: float
    """Length of a side."""

    def area(self) -> float:
        """Square units."""
        return self.side**2


class Holder(Component):
    """A holder of shapes and of holders, for these tests."""

    role: ClassVar[str] = "test_holder"
    home: ClassVar[str] = "luthier.core"


class Pile(Holder):
    """Shapes upon shapes."""

    kind: Literal["pile"] = "pile"
    top: Shape = Dot()
    """The uppermost."""
    under: tuple[Shape | Holder, ...] = ()
    """The others."""
    named: dict[str, Shape] = Field(default_factory=dict)
    """Some by name."""


class Sheet(BaseModel):
    """Something that holds shapes and is none itself."""

    shapes: list[Shape]


def test_defining_a_part_registers_it() -> None:
    assert set(components_by_kind(Shape)) == {"dot", "square"}
    assert component_of_kind(Shape, "square") is Square
    assert roles_by_name()["test_shape"] is Shape


def test_an_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match="'sqare'") as caught:
        component_of_kind(Shape, "sqare")
    assert caught.value.hint == "did you mean 'square'?"
    with pytest.raises(ValidationError, match="did you mean 'square'"):
        Sheet.model_validate({"shapes": [{"kind": "sqare"}]})


def test_a_kind_defined_twice_is_a_fault() -> None:
    with pytest.raises(TypeError, match="defined twice"):

        class Other(Shape):
            """Another square."""

            kind: Literal["square"] = "square"


def test_a_part_is_made_from_an_instance_a_mapping_or_a_kind() -> None:
    square = Square(side=2)
    sheet = Sheet.model_validate({"shapes": [square, {"kind": "square", "side": 2}, "dot"]})
    assert sheet.shapes == [square, square, Dot()]
    assert sheet.shapes[0] is square
    assert [shape.area() for shape in sheet.shapes] == [4, 4, 0]


@pytest.mark.parametrize(
    "wrong",
    [
        3,
        None,
        [],
        {},
        {"side": 2},
        {"kind": 3},
        {"kind": ["dot"]},
        "square",
        {"kind": "square", "side": "wide"},
        "pille",
    ],
)
def test_what_is_no_part_is_refused(wrong: Any) -> None:
    with pytest.raises(ValidationError):
        Sheet.model_validate({"shapes": [wrong]})


def test_an_unknown_setting_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ValidationError, match=r"'sied'.*did you mean 'side'"):
        Square.model_validate({"kind": "square", "sied": 3})


def test_yes_or_no_is_no_number_and_neither_is_infinity() -> None:
    for wrong in (True, float("nan"), float("inf")):
        with pytest.raises(ValidationError):
            Square.model_validate({"side": wrong})


def test_a_part_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Square(side=2).side = 3  # type: ignore[misc]  # what must not work


def test_settings_come_back_as_they_were_said_and_make_the_same_part() -> None:
    pile = Pile(top=Square(side=1), under=(Dot(), Pile()), named={"a": Square(side=2)})
    assert pile.settings()["top"] == {"kind": "square", "side": 1.0}
    assert pile.settings()["under"][1] == {"kind": "pile", "top": {"kind": "dot"}, "under": [], "named": {}}
    assert Holder.parse(json.loads(json.dumps(pile.settings()))) == pile


def test_parts_inside_parts_are_found() -> None:
    pile = Pile(top=Square(side=1), under=(Dot(), Pile(under=(Square(side=3),))), named={"a": Square(side=2)})
    assert [part.kind for part in iter_components(pile)] == [
        *("pile", "square", "dot", "pile", "dot", "square", "square"),
    ]
    assert [part.kind for part in iter_components(Sheet(shapes=[Dot(), Square(side=1)]))] == ["dot", "square"]


def test_the_schema_offers_every_kind_and_the_bare_ones() -> None:
    schema = full_schema(Sheet)
    choice = schema["$defs"][Shape.role]["anyOf"]
    assert choice[0] == {"enum": ["dot"]}
    assert [one["$ref"] for one in choice[1:]] == [f"#/$defs/{Shape.role}.{kind}" for kind in ("dot", "square")]
    square = schema["$defs"][f"{Shape.role}.square"]
    assert square["required"][0] == "kind"
    assert square["properties"]["side"]["description"] == "Length of a side."


def test_the_schema_of_a_role_that_holds_itself_ends() -> None:
    schema = full_schema(Pile)
    assert schema["$defs"][f"{Holder.role}.pile"]["properties"]["top"]["$ref"] == f"#/$defs/{Shape.role}"


def test_the_summary_is_the_first_sentence() -> None:
    assert Square.summary() == "A square."


def test_a_first_sentence_may_go_over_lines_and_another_follow_in_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    told = """A shape whose sides, as Euclid et al. 300 BC have them (i. e. `all`), are the same,
        however long. It is no circle.

        More of it.
        """
    monkeypatch.setattr(Square, "__doc__", told)
    whole = "A shape whose sides, as Euclid et al. 300 BC have them (i. e. `all`), are the same, however long."
    assert Square.summary() == whole


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package of two rooms, each with a home for tools."""
    name = f"house_of_parts_{next(COUNTER)}"
    role = f'''
from typing import ClassVar
from luthier.core.component import Component
class Tool(Component):
    """A tool."""
    role: ClassVar[str] = "tool of {name}"
    home: ClassVar[str] = "{name}.*.tools"
'''
    files = {"__init__.py": "", "role.py": role, "garden/__init__.py": "", "kitchen/__init__.py": ""}
    files |= {"kitchen/tools/__init__.py": "", "garden/tools/__init__.py": "", "attic/__init__.py": ""}
    for room, kind in (("kitchen", "whisk"), ("garden", "spade")):
        files[f"{room}/tools/{kind}.py"] = f'''
from typing import Literal
from {name}.role import Tool
class Member(Tool):
    """A {kind}."""
    kind: Literal["{kind}"] = "{kind}"
'''
    for path, text in files.items():
        place = tmp_path / name / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_members_are_found_in_every_room_by_themselves(package: str) -> None:
    import importlib

    tool: type[Component] = importlib.import_module(f"{package}.role").Tool
    assert sorted(components_by_kind(tool)) == ["spade", "whisk"]
    assert tool.parse("whisk").kind == "whisk"
    assert component_of_kind(tool, "spade").summary() == "A spade."


def test_a_role_whose_home_is_one_package_finds_its_modules(package: str) -> None:
    import importlib

    tool: type[Component] = importlib.import_module(f"{package}.role").Tool

    class Utensil(tool):  # type: ignore[misc,valid-type]  # a role made while the test runs
        """A tool of the kitchen alone."""

        role: ClassVar[str] = f"utensil of {package}"
        home: ClassVar[str] = f"{package}.kitchen.tools"

    assert components_by_kind(Utensil) == {}
    assert "whisk" in components_by_kind(tool)
