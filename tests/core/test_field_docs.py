"""What fields are for is read from the text under each, as pydantic reads it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from luthier.core.component import add_field_descriptions, field_descriptions


class Base(BaseModel):
    model_config = ConfigDict(json_schema_extra=add_field_descriptions)

    kept: int = 0
    """Said by the base
    over two lines."""
    other: int = 0
    """Said by the base."""


class Inner(Base):
    other: int = 1
    """Said anew."""
    bare: int = 0
    plain: int = Field(default=0, description="Said in the field.")
    named: int = Field(default=0, alias="byname")
    """Said of a field with another name."""


class Theirs(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    kept: int = 0
    """Said by the base
    over two lines."""
    other: int = 1
    """Said anew."""
    bare: int = 0
    plain: int = Field(default=0, description="Said in the field.")
    named: int = Field(default=0, alias="byname")
    """Said of a field with another name."""


def test_the_schema_is_the_one_that_pydantic_makes() -> None:
    assert {**Inner.model_json_schema(), "title": ""} == {**Theirs.model_json_schema(), "title": ""}


def test_a_class_in_a_function_is_found_and_what_has_no_source_says_nothing() -> None:
    class Local(Base):
        own: int = 0
        """Said within."""

    assert field_descriptions(Local)["own"] == "Said within."
    space: dict[str, Any] = {"Base": Base, "__name__": "nowhere"}
    exec('class Made(Base):\n    own: int = 0\n    """Said nowhere."""', space)
    assert field_descriptions(space["Made"]) == {
        "kept": "Said by the base\nover two lines.",
        "other": "Said by the base.",
    }
