"""The revision of a step: a digest of exactly those modules that can decide its bytes, read off their imports.

The modules of a step are its own, those of its parts, and all that these import, at the top or inside a function;
imports for type checking alone do not count. Where a module asks for all members of a role, the role's package counts.
What only speaks, foretells or stores is left out (`UNDECIDING`). Files that are no Python count with the module that
names them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

from luthier.core.hashing import digest_of, file_digest

UNDECIDING = (
    "luthier.core.artifact",
    "luthier.core.component",
    "luthier.core.context",
    "luthier.core.db",
    "luthier.core.errors",
    "luthier.core.events",
    "luthier.core.files",
    "luthier.core.lease",
    "luthier.core.param_space",
    "luthier.core.remote_checkpoints",
    "luthier.core.remote_store",
    "luthier.core.render",
    "luthier.core.revision",
    "luthier.core.step",
    "luthier.core.store",
    "luthier.core.system.process",
    "luthier.core.timings",
    "luthier.core.training_outcomes",
    "luthier.eval.cost",
    "luthier.explain.cost",
    "luthier.models.cost",
    "luthier.models.export.model_card",
    "luthier.models.machine_cost",
    "luthier.tune.forecast",
)
"""Modules, and packages with all they hold, that no bytes of an artifact follow from: errors, progress, forecasts, the
schema, settings (which are part of the name as they are), files and the store. What they import counts only where
something else imports it, too."""
_IMPORT = re.compile(
    r"^(?P<indent>[ \t]*)(?:from (?P<source>luthier[\w.]*) import (?:\((?P<many>[^)]*)\)|(?P<names>[^\n]*))"
    r"|import (?P<plain>luthier[\w.]*))",
    re.MULTILINE,
)
_TYPING = re.compile(r"^if TYPE_CHECKING:\n(?:[ \t][^\n]*\n|\n)+", re.MULTILINE)
_MEMBERS = re.compile(r"\b(?:components_by_kind|component_of_kind|parse_component_spec)\(\s*(?P<role>[A-Z]\w*)\b")
_CLASS = re.compile(r'^class (?P<name>\w+)|^    home: ClassVar\[str\] = "(?P<home>[\w.*]+)"', re.MULTILINE)
_NAME = re.compile(r"^\w+")
_POINTER = re.compile(r'"(?P<folder>[^"/\n]+)/(?P<rest>[^"\n]*)')
_HOME_MARK = '    home: ClassVar[str] = "'


@dataclass(frozen=True)
class SourceTree:
    """The source files of a package and how they import each other."""

    root: Path
    """The folder of the package `luthier`."""
    _texts: dict[str, str] = field(default_factory=dict, compare=False)
    _imports: dict[str, tuple[str, ...]] = field(default_factory=dict, compare=False)
    _pointers: dict[str, dict[str, list[str]]] = field(default_factory=dict, compare=False)
    _named: dict[tuple[Path, str], bool] = field(default_factory=dict, compare=False)

    @cached_property
    def _paths(self) -> list[Path]:
        """All files of the package."""
        return [Path(folder, name) for folder, _, names in os.walk(self.root) for name in names]

    @cached_property
    def files(self) -> dict[str, Path]:
        """The file of each module by its dotted name."""
        found, start = {}, len(self.root.parts) - 1
        for path in sorted(path for path in self._paths if path.suffix == ".py"):
            parts = [*path.parts[start:-1], path.stem]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
        return found

    @cached_property
    def role_modules(self) -> dict[str, tuple[str, ...]]:
        """The modules that hold the members of each role, by the name of the role's class."""
        found = {}
        for name in self.files:
            role, text = "", self.text(name)
            for line in _CLASS.finditer(text) if _HOME_MARK in text else ():
                role = line["name"] or role
                if line["home"]:
                    pattern = re.compile(line["home"].replace(".", r"\.").replace("*", r"\w+") + r"\.\w+")
                    found[role] = tuple(module for module in self.files if pattern.fullmatch(module))
        return found

    def text(self, module: str) -> str:
        """The source of a module, without its imports for type checking."""
        if module not in self._texts:
            self._texts[module] = _TYPING.sub("", self.files[module].read_text(encoding="utf-8"))
        return self._texts[module]

    def imports(self, module: str) -> tuple[str, ...]:
        """The modules that a module imports anywhere, and the members of roles that it asks for."""
        if module not in self._imports:
            self._imports[module] = tuple(self._find_imports(module))
        return self._imports[module]

    def _find_imports(self, module: str) -> Iterator[str]:
        text = self.text(module)
        for found in _IMPORT.finditer(text):
            if found["plain"]:
                yield found["plain"]
                continue
            names = [part.strip() for part in (found["many"] or found["names"]).split(",")]
            members = [f"{found['source']}.{match[0]}" for part in names if (match := _NAME.match(part))]
            inner = [name for name in members if name in self.files]
            yield from inner
            if len(inner) < len(members):
                yield found["source"]
        for member in _MEMBERS.finditer(text):
            yield from self.role_modules.get(member["role"], ())

    def closure(self, roots: Iterable[str]) -> frozenset[str]:
        """Some modules with all that they import, directly or not, as far as it can decide bytes."""
        waiting, found = list(roots), set[str]()
        while waiting:
            name = waiting.pop()
            if name in found or name not in self.files or _is_undeciding(name):
                continue
            found.add(name)
            waiting += self.imports(name)
            waiting += [above for above in _iterate_parents(name) if "import " in self.text(above)]
        return frozenset(found)

    def resources(self, modules: Iterable[str]) -> frozenset[Path]:
        """Files beside modules that are no Python and that a module names, itself or by their folder or ending."""
        neighbours: dict[Path, list[str]] = {}
        pointers: dict[str, list[str]] = {}
        for name in modules:
            neighbours.setdefault(self.files[name].parent, []).append(name)
            for folder, rests in self._list_pointers(name).items():
                pointers.setdefault(folder, []).extend(rests)
        return frozenset(
            path
            for path, package in self._data_files.items()
            if any(self._names(name, path, package) for name in neighbours.get(package, ()))
            or any(rest.startswith((path.stem, "{")) for rest in pointers.get(path.parent.name, ()))
        )

    def _list_pointers(self, module: str) -> dict[str, list[str]]:
        """What a module names by a folder, as in `safety/harmful`: the rests by their folders."""
        if module not in self._pointers:
            found: dict[str, list[str]] = {}
            for pointer in _POINTER.finditer(self.text(module)):
                found.setdefault(pointer["folder"], []).append(pointer["rest"])
            self._pointers[module] = found
        return self._pointers[module]

    def _names(self, module: str, path: Path, package: Path) -> bool:
        """Whether a module of a file's package names it, its folder there, or its ending."""
        if (path, module) not in self._named:
            inside = path.relative_to(package).parts[:-1]
            words = [*(f'"{word}"' for word in (path.name, path.stem, *inside)), f'{path.suffix}"']
            text = self.text(module)
            self._named[path, module] = any(word in text for word in words)
        return self._named[path, module]

    @cached_property
    def _data_files(self) -> dict[Path, Path]:
        """All files of the package that are no Python, each with the nearest package that it stands in."""
        paths = [path for path in self._paths if "__pycache__" not in path.parts and path.suffix not in (".py", ".pyc")]
        packages = {path.parent for path in self.files.values() if path.stem == "__init__"}
        return {path: next(folder for folder in path.parents if folder in packages) for path in paths}

    def revision(self, roots: Iterable[str]) -> str:
        """A digest of what decides bytes: the modules' files, and those beside them that they name."""
        modules = self.closure(roots)
        paths = {self.files[name] for name in modules} | self.resources(modules)
        return digest_of(sorted((path.relative_to(self.root).as_posix(), file_digest(path)) for path in paths))


def _is_undeciding(module: str) -> bool:
    return any(module == entry or module.startswith(f"{entry}.") for entry in UNDECIDING)


def _iterate_parents(module: str) -> Iterator[str]:
    """The packages that a module stands in: importing it runs theirs."""
    parts = module.split(".")
    yield from (".".join(parts[:count]) for count in range(2, len(parts)))


@cache
def installed_source_tree() -> SourceTree:
    """The installed program's own."""
    return SourceTree(Path(__file__).parents[1])


@cache
def code_revision(*roots: str) -> str:
    """The revision of some modules of the installed program and of all that they stand on."""
    return installed_source_tree().revision(roots)
