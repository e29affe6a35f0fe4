"""An account of another tool's options: what each became, or why it has no counterpart; none is dropped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


def map_same_names(*names: str) -> dict[str, str]:
    """Map option names to themselves, for options that have the same name in both tools."""
    return dict(zip(names, names, strict=True))


EMPTY: tuple[Any, ...] = (None, "", [], {})


@dataclass
class ImportReport:
    """What became of every option of a file."""

    tool: str
    taken: dict[str, str] = field(default_factory=dict)
    """Where an option stands in the recipe."""
    left: dict[str, str] = field(default_factory=dict)
    """Why an option has no counterpart."""
    unknown: list[str] = field(default_factory=list)
    """Options that this importer has never heard of."""
    empty: list[str] = field(default_factory=list)
    """Options that are there without a value."""

    def sentences(self) -> dict[str, str]:
        """By option, why it has no counterpart, for people."""
        found = {name: f"no counterpart: {why}" for name, why in self.left.items()}
        return found | dict.fromkeys(self.unknown, "unknown to this importer, and ignored")

    def comments(self) -> list[str]:
        """The whole account, a line each."""
        lines = [f"{name} -> {path}" for name, path in self.taken.items()]
        lines += [f"{name}: {why}" for name, why in self.sentences().items()]
        return lines + ([f"without a value there: {', '.join(self.empty)}"] if self.empty else [])


@dataclass(frozen=True, kw_only=True)
class ImportedOption:
    """One option as its tool names it, and its value."""

    option: str
    value: Any
    default: bool = False
    """Whether the file leaves it out, so that the tool's own default holds."""

    def __str__(self) -> str:
        return f"{self.option}: {self.value}" + (" (its default)" if self.default else "")


class ImportOptionReader:
    """Reads the options of an imported config, each once, and records in the import report what became of it."""

    def __init__(self, account: ImportReport, found: Mapping[str, ImportedOption]) -> None:
        self.account, self._found = account, dict(found)

    def get(self, name: str) -> Any:
        """The value that is wished for, without taking it."""
        return self._found[name].value if name in self._found else None

    def asks(self, name: str) -> bool:
        """Whether the file itself says so, and not a default of its tool."""
        return name in self._found and not self._found[name].default

    def name_of(self, name: str) -> str:
        """How the other tool calls an option; empty where nobody asked for it."""
        return self._found[name].option if name in self._found else ""

    def take(self, name: str, path: str) -> Any:
        """The value, noted as standing at a place of the recipe; None when nobody asked for it."""
        option = self._found.pop(name, None)
        if option is None:
            return None
        self.account.taken[str(option)] = path
        return option.value

    def leave(self, name: str, why: str) -> None:
        """Note why an option is not taken; defaults of the tool are not worth a word."""
        option = self._found.pop(name, None)
        if option is not None and not option.default:
            self.account.left[f"{option.option}: {option.value}"] = why

    def rest(self) -> list[str]:
        """The names that nobody has taken."""
        return list(self._found)
