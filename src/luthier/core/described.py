"""What a model's fields are for: the text under each in the source, read when somebody asks.

Commands make some two hundred classes and describe none of them. pydantic's `use_attribute_docstrings` reads the source
as each class is made, through the frames of the call; it was a third of `luthier plan`.
"""

from __future__ import annotations

import ast
import inspect
import sys
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel


def described(schema: dict[str, Any], model: type[BaseModel]) -> None:
    """Put descriptions into a model's JSON schema; for `ConfigDict(json_schema_extra=described)`."""
    told = descriptions(model)
    for name, field in model.model_fields.items():
        place = schema.get("properties", {}).get(field.alias or name)
        if place is not None and name in told:
            place.setdefault("description", told[name])


def descriptions(model: type[BaseModel]) -> dict[str, str]:
    """The texts of a model's fields by name, those that it inherits among them."""
    under: dict[str, str] = {}
    for one in reversed(model.__mro__[: model.__mro__.index(BaseModel)]):
        under |= _texts(one.__module__).get(one.__qualname__, {})
    told = {name: field.description or under.get(name) for name, field in model.model_fields.items()}
    return {name: text for name, text in told.items() if text}


@cache
def _texts(module: str) -> dict[str, dict[str, str]]:
    """By class, then by field; nothing where there is no source."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or not file.endswith(".py"):
        return {}
    found: dict[str, dict[str, str]] = {}
    _look(ast.parse(Path(file).read_bytes()), "", found)
    return found


def _look(node: ast.AST, before: str, found: dict[str, dict[str, str]]) -> None:
    """Note every class below a node under its qualified name."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            found[before + child.name] = _of_class(child)
            _look(child, f"{before}{child.name}.", found)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            _look(child, f"{before}{child.name}.<locals>.", found)
        else:
            _look(child, before, found)


def _of_class(body: ast.ClassDef) -> dict[str, str]:
    found = {}
    for one, after in zip(body.body, body.body[1:], strict=False):
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name) and isinstance(after, ast.Expr):
            text = after.value
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                found[one.target.id] = inspect.cleandoc(text.value)
    return found
