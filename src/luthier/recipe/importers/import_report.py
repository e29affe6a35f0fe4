"""The report of an import: what each option of another tool became, or why it has no counterpart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PACKED = "packing is always on and exact: rows are packed within their step, and each is read as if it stood alone"
MEASURED = "how attention and products are computed is chosen by measuring on this machine, each proven equal"
MEMORY = "memory is planned before the first step: a step that does not fit is split, with the same gradient"
SAVED = "checkpoints are written by the clock, and a killed run goes on by itself; `luthier run` again is all it takes"
LOGGED = "every step is logged in `log.jsonl`, shown live and drawn in the report"
TRACKED = "trackers are parts of the recipe: add one to `report_to` of the step `tune`"
STORED = "outputs are kept in the store; `luthier export` writes them to a folder of your choice"
ALONE = "how a training is laid over processes has no such setting here"
PREPARED = "prepared rows are an artifact of their own, made once and found again"
TOKENS = "the model's own tokenizer and special tokens are used as they are"
TEMPLATE = "the chat template is the model's own; set `chat_template` in the recipe for another, which all steps share"
REMOTE = "code that comes with a model or a data set is never run"
QUANTISED = "how the frozen base is quantized is the technique's own business"
EVALUATED = "the step `report` measures what is held out, and compares it with the base model"
CODE = (
    "code of another tool is never run; name the parts that judge in `objective.rewards` (as long as none corresponds, "
    "`exact`, agreement with the answer of the data, stands in their place)"
)
JUDGE = "tune a reward model in a step of its own, name that step in `reward_model`, and add the reward `model`"
DRAWN = "answers are drawn at temperature 1 from the whole vocabulary: a loss must know how likely an answer was"
WRITER = "answers are drawn by the engine here; `rollout.writer` asks another one"
REFERENCE = "the reference is the model with its adapter off, read once and stored"
ROUNDED = "a model computes in bfloat16 or float32 here; `qlora` rounds the frozen base"
PROCESSOR = "the processor that stands with the model makes numbers of pictures and sounds, with its own settings"
SMALL = "pictures are made larger by the model's own processor where the model needs it"
FRAMES = "frames of films are pictures: `max_pixels` of the step `base` bounds them, too"
SOUNDS = "sounds are read at the rate that the model's own processor wants"
THOUGHT = "what a turn thinks is read from its `thinking` or `reasoning_content`"
METHOD = "there is no such technique here"
LOSS = "there is no such loss here"
FALL = "a shape of the rate has no settings beyond `warmup_ratio` and `decay`"
EVERYWHERE = "an adapter stands in every layer of the model"
REJECTED = "the answer that was not preferred stands in a column called `rejected`: rename it in the file"


def map_same_names(*names: str) -> dict[str, str]:
    """Map option names to themselves, for options that have the same name in both tools."""
    return dict(zip(names, names, strict=True))


EMPTY: tuple[Any, ...] = (None, "", [], {})


@dataclass
class ImportReport:
    """Account of every option of a file."""

    tool: str
    taken: dict[str, str] = field(default_factory=dict)
    """Path in the recipe of each converted option."""
    left: dict[str, str] = field(default_factory=dict)
    """Why an option has no counterpart."""
    unknown: list[str] = field(default_factory=list)
    """Options unknown to this importer."""
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
    """One option by its tool's name, and its value."""

    option: str
    value: Any
    default: bool = False
    """Whether it is the tool's default rather than in the file."""

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
        """Return whether the file itself sets it."""
        return name in self._found and not self._found[name].default

    def name_of(self, name: str) -> str:
        """Return the other tool's name of an option; empty where it is not set."""
        return self._found[name].option if name in self._found else ""

    def take(self, name: str, path: str) -> Any:
        """Return the value, recorded as converted to a path of the recipe; None when it is not set."""
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
        """Return the names of unconverted options."""
        return list(self._found)
