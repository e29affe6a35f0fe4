"""The revision of a step: a digest of exactly those modules that can decide its bytes, read off their imports.

The modules of a step are its own, those of its parts, and all that these import, at the top or inside a function;
imports for type checking alone do not count. Where a module asks for all members of a role, the role's package counts.
What only speaks, foretells or stores is left out (`UNDECIDING`). Files that are no Python count with the module that
names them.
"""

from __future__ import annotations

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
    "luthier.core.remote_store",
    "luthier.core.remote_work",
    "luthier.core.outcomes",
    "luthier.core.render",
    "luthier.core.revision",
    "luthier.core.step",
    "luthier.core.store",
    "luthier.core.system.process",
    "luthier.core.timings",
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


@dataclass(frozen=True)
class SourceTree:
    """The source files of a package and how they import each other."""

    root: Path
    """The folder of the package `luthier`."""
    _texts: dict[str, str] = field(default_factory=dict, compare=False)

    @cached_property
    def files(self) -> dict[str, Path]:
        """The file of each module by its dotted name."""
        found = {}
        for path in sorted(self.root.rglob("*.py")):
            parts = [self.root.name, *path.relative_to(self.root).with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
        return found

    @cached_property
    def homes(self) -> dict[str, tuple[str, ...]]:
        """The modules that hold the members of each role, by the name of the role's class."""
        found = {}
        for name in self.files:
            role = ""
            for line in _CLASS.finditer(self.text(name)):
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

    def imports(self, module: str) -> Iterator[str]:
        """The modules that a module imports anywhere, and the members of roles that it asks for."""
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
            yield from self.homes.get(member["role"], ())

    def closure(self, roots: Iterable[str]) -> frozenset[str]:
        """Some modules with all that they import, directly or not, as far as it can decide bytes."""
        waiting, found = list(roots), set[str]()
        while waiting:
            name = waiting.pop()
            if name in found or name not in self.files or _is_undeciding(name):
                continue
            found.add(name)
            waiting += self.imports(name)
            waiting += [above for above in _above(name) if "import " in self.text(above)]
        return frozenset(found)

    def resources(self, modules: Iterable[str]) -> frozenset[Path]:
        """Files beside modules that are no Python and that a module names, itself or by their folder or ending."""
        texts: dict[Path, list[str]] = {}
        for name in modules:
            texts.setdefault(self.files[name].parent, []).append(self.text(name))
        every = [text for some in texts.values() for text in some]
        return frozenset(
            path for path in self._others if _names(path, texts.get(_package_of(path), ())) or _points_to(path, every)
        )

    @cached_property
    def _others(self) -> list[Path]:
        """All files of the package that are no Python."""
        paths = (path for path in self.root.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        return [path for path in paths if path.suffix not in (".py", ".pyc")]

    def revision(self, roots: Iterable[str]) -> str:
        """A digest of what decides bytes: the modules' files, and those beside them that they name."""
        modules = self.closure(roots)
        paths = {self.files[name] for name in modules} | self.resources(modules)
        return digest_of(sorted((path.relative_to(self.root).as_posix(), file_digest(path)) for path in paths))


def _is_undeciding(module: str) -> bool:
    return any(module == entry or module.startswith(f"{entry}.") for entry in UNDECIDING)


def _above(module: str) -> Iterator[str]:
    """The packages that a module stands in: importing it runs theirs."""
    parts = module.split(".")
    yield from (".".join(parts[:count]) for count in range(2, len(parts)))


def _package_of(path: Path) -> Path:
    """The nearest package that a file stands in."""
    return next(folder for folder in path.parents if (folder / "__init__.py").exists())


def _names(path: Path, texts: Iterable[str]) -> bool:
    """Whether a module of a file's package names it, its folder there, or its ending."""
    inside = path.relative_to(_package_of(path)).parts[:-1]
    words = [*(f'"{word}"' for word in (path.name, path.stem, *inside)), f'{path.suffix}"']
    return any(word in text for text in texts for word in words)


def _points_to(path: Path, texts: Iterable[str]) -> bool:
    """Whether any module names a file by its folder, as in `safety/harmful`."""
    words = (f'"{path.parent.name}/{path.stem}', f'"{path.parent.name}/{{')
    return any(word in text for text in texts for word in words)


@cache
def installed_source_tree() -> SourceTree:
    """The installed program's own."""
    return SourceTree(Path(__file__).parents[1])


@cache
def code_revision(*roots: str) -> str:
    """The revision of some modules of the installed program and of all that they stand on."""
    return installed_source_tree().revision(roots)
