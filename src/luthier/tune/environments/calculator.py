"""A calculator that a model may call in the middle of an answer."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from luthier.tune.environment import Environment, EnvironmentConversation

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
}  # fmt: skip
_LARGEST = 1e15
"""Larger numbers are refused: digits of a float would be wrong beyond."""


class CalculatorEnvironment(Environment):
    """Find a call in what the model said, `calc(12 * 7)`, and say what it comes to: 84.

    Numbers, brackets and + - * / // % are understood. What is not is answered with the reason, from which a model can
    learn, too. A turn without a call ends the conversation. Say in the system turn how to call it.
    """

    kind: Literal["calculator"] = "calculator"

    call: str = Field(default=r"calc\((.*)\)", min_length=1)
    """A regular expression that finds the last call in a turn; its first group is what is calculated."""
    digits: int = Field(default=6, ge=0, le=12)
    """Decimal places of a result, at most."""

    @field_validator("call")
    @classmethod
    def _has_a_group(cls, call: str) -> str:
        try:
            groups = re.compile(call).groups
        except re.error as error:
            raise ValueError(f"no regular expression: {error}") from error
        if not groups:
            raise ValueError("expected a group in brackets around what is to be calculated")
        return call

    def answer(self, talks: Sequence[EnvironmentConversation], recipe_dir: Path) -> list[str | None]:
        """Return the result of each call."""
        return [self._answer_call(talk.completion) for talk in talks]

    def _answer_call(self, text: str) -> str | None:
        matches = re.findall(self.call, text)
        if not matches:
            return None
        called = matches[-1] if isinstance(matches[-1], str) else matches[-1][0]
        try:
            value = calculate(called)
        except ValueError as error:
            return f"error: {error}"
        return f"{round(value, self.digits):.{self.digits}f}".rstrip("0").rstrip(".") if self.digits else f"{value:.0f}"


def calculate(text: str) -> float:
    """Evaluate an arithmetic expression; `ValueError` with a readable message for anything else."""
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except ZeroDivisionError:
        raise ValueError("division by zero") from None
    except (SyntaxError, RecursionError, MemoryError):
        raise ValueError("this cannot be read") from None


def _value(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return _check_size(number)
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -_value(inner)
        case ast.UnaryOp(op=ast.UAdd(), operand=inner):
            return _value(inner)
        case ast.BinOp(left=left, op=how, right=right) if type(how) in _BINARY:
            return _check_size(_BINARY[type(how)](_value(left), _value(right)))
    raise ValueError("only numbers, brackets and + - * / // % are understood")


def _check_size(number: float) -> float:
    if abs(number) > _LARGEST:
        raise ValueError("the number is too large")
    return number
