"""Releasing a project's models step by step: what a change will do is said before it is done."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from luthier.commands import release as commands
from luthier.commands.projects.models import ProjectModel, find_project_model, list_project_releases
from luthier.core.errors import DataError, InputError, UnknownName
from luthier.core.system.process import python_command
from luthier.recipe.locate import CommandTarget
from luthier.recipe.workspace import Workspace
from luthier.traces.releases import Release

Change = Literal["release", "canary", "shadow", "promote", "rollback"]
CHANGES: tuple[Change, ...] = ("release", "canary", "shadow", "promote", "rollback")
_PATIENCE_S = 120
_USERS = "of users, always the same ones"


@dataclass(frozen=True, kw_only=True)
class ReleaseChange:
    """A change of a name that somebody thinks of."""

    did: Change
    alias: str
    now: Release | None
    """What the name means; None for a new one."""
    model: ProjectModel | None = None
    share: str = "10%"

    @property
    def words(self) -> list[str]:
        """The command that does it."""
        if self.did in ("promote", "rollback"):
            return ["release", self.did, self.alias]
        more = {"canary": ["--canary", self.share], "shadow": ["--shadow"]}.get(self.did, [])
        return ["release", self.alias, self.model.word if self.model else "RECIPE:STEP", *more]

    def describe(self) -> list[str]:
        """What it will do, in sentences; `InputError` where it cannot be done."""
        now, alias = self.now, self.alias
        if self.did == "promote":
            return self._promotion()
        if self.did == "rollback":
            return self._return()
        called = f"{self.model.step} ({self.model.digest[:12]})" if self.model else "the model"
        if self.did == "release":
            was = f" instead of {_called(now)}" if now else ""
            stopped = " What is tried beside it is stopped." if now and (now.canary or now.shadow) else ""
            back = f"Roll back returns to {_called(now)}." if now else f"Clients ask for it as {alias}."
            return [f"{called} answers everybody who asks for {alias}{was}.{stopped}", back]
        if now is None:
            hint = "release a model under it first"
            raise InputError(f"nothing is released as {alias!r}, so that nothing can be tried beside it", hint=hint)
        if self.did == "canary":
            first = f"{called} answers {self.share} {_USERS}; all others go on with {_called(now)}."
            return [first, "Both are compared by feedback, errors and latency; then promote it, or roll back."]
        first = f"{called} is asked whatever {alias} is asked; its answers are kept and shown to nobody."
        return [first, f"{_called(now)} goes on answering everybody."]

    def _promotion(self) -> list[str]:
        assert self.now is not None, "only a name that is there is promoted"
        tried = self.now.canary or self.now.shadow
        if tried is None:
            raise InputError(f"nothing is tried beside {self.alias}", hint="start a canary or a shadow first")
        first = f"{tried.word} ({tried.digest[:12]}) answers everybody who asks for {self.alias}."
        return [first, f"Roll back returns to {_called(self.now)}."]

    def _return(self) -> list[str]:
        assert self.now is not None, "only a name that is there is rolled back"
        tried = self.now.canary or self.now.shadow
        if tried is not None:
            return [f"{tried.word} is asked no more; {_called(self.now)} answers everybody, as it did before."]
        if self.now.before is None:
            raise InputError(f"no model answered to {self.alias} before", hint="release another model under it")
        return [f"The model before {_called(self.now)} answers everybody who asks for {self.alias} again."]

    def apply(self, workspace: Workspace, file: Path) -> Release:
        """Do it."""
        own = workspace.with_folder(file.parent)
        if self.did == "promote":
            return commands.promote(own, self.alias)
        if self.did == "rollback":
            return commands.roll_back(own, self.alias)
        assert self.model is not None, "a model was looked up for it"
        word = f"{file.name}:{self.model.step}" if self.model.is_current else self.model.word
        target = CommandTarget(own, word)
        canary = self.share if self.did == "canary" else None
        return commands.release_recipe_model(self.alias, target, canary, shadow=self.did == "shadow")


def _called(release: Release | None) -> str:
    if release is None:
        return "nothing"
    model = release.stable
    return f"{model.word} ({model.digest[:12]})" if model.digest else model.word


def plan_release_change(
    workspace: Workspace, file: Path, did: str, alias: str, digest: str = "", share: str = ""
) -> ReleaseChange:
    """A change of one of a project's names; `UnknownName` for a name or a model that is not there."""
    change = next((entry for entry in CHANGES if entry == did), None)
    if change is None:
        raise UnknownName(f"there is no change {did[:40]!r}", hint=", ".join(CHANGES))
    now = next(
        (
            project_release
            for project_release in list_project_releases(workspace, file)
            if project_release.alias == alias
        ),
        None,
    )
    if change in ("promote", "rollback"):
        if now is None:
            raise UnknownName(f"nothing is released as {alias[:120]!r}", hint="release a model under it first")
        return ReleaseChange(did=change, alias=alias, now=now)
    model = find_project_model(workspace, file, digest)
    text = share.strip() or "10%"
    share = f"{text}%" if re.fullmatch(r"\d{1,3}(\.\d{1,6})?", text) else text
    return ReleaseChange(did=change, alias=alias, now=now, model=model, share=share)


def suggest_alias(file: Path, releases: Sequence[Release]) -> str:
    """The name under which a project's model is released: the one that is there, or the project's own."""
    if releases:
        return releases[0].alias
    name = file.parent.name if file.name == "recipe.yaml" else file.stem
    plain = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "-" for letter in name)
    return f"{plain.strip('._-')[:60] or 'model'}@prod"


def read_candidate_comparison(workspace: Workspace, alias: str) -> list[dict[str, Any]]:
    """What `luthier release compare` finds, computed in a process of its own; `LuthierError` says why there is none."""
    failed = DataError("the models could not be compared", hint=f"luthier release compare {alias}")
    try:
        process = subprocess.run(  # noqa: S603  # this very program
            python_command("-m", "luthier", "release", "compare", "--json", "--", alias), cwd=workspace.folder,
            stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=_PATIENCE_S,
            env={**os.environ, **workspace.environment},
        )  # fmt: skip
        result = json.loads(process.stdout)
    except (ValueError, subprocess.TimeoutExpired) as error:
        raise failed from error
    if isinstance(result, list):
        return result
    why = result.get("error", {})
    raise DataError(str(why.get("message", "")), hint=str(why.get("hint") or ""))
