"""Exporters of JSONL for fine-tuning providers, checked against the rules of each."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from luthier.chat.openai_examples import ReadBytes, get_rejected_answer
from luthier.chat.provider_rules import (
    AZURE,
    BEDROCK,
    FIREWORKS,
    OPENAI,
    TOGETHER,
    VERTEX,
    ProviderRules,
    format_provider_example,
)
from luthier.core.errors import DataError, SourceLocation
from luthier.data.exporter import ExportDataset, Exporter, ExportRow, Say, write_lines
from luthier.data.row import MESSAGES


class ProviderExporter(Exporter):
    """The base of exporters for providers: `SPLIT.jsonl`, and line by line beside it `SPLIT.index.jsonl` with `id`,
    `origin` and `meta`. Reasoning is left out."""

    @property
    @abstractmethod
    def rules(self) -> ProviderRules:
        """What the provider takes."""

    def holds_pairs(self, data: ExportDataset, say: Say) -> bool:
        """Whether rows are written as preferences."""
        return False

    def write(self, data: ExportDataset, folder: Path, say: Say) -> None:
        """Write both files of each split; `DataError` names the first row that the provider would refuse, with its file
        and line."""
        if data.holds_media and not self.rules.most_images:
            what = f"{self.rules.provider}'s files are written of text alone, and rows hold pictures or sounds"
            raise DataError(what, hint="export `jsonl`, whose messages hold them as OpenAI's API takes them")
        pairs = self.holds_pairs(data, say)
        for split in data.splits:
            path = folder / f"{split}.jsonl"
            write_lines(path, self._checked(data, split, pairs=pairs))
            write_lines(folder / f"{split}.index.jsonl", list_row_index(data, split))
            if why := self.rules.explain_file_refusal(data.rows(split), path.stat().st_size):
                say(f"{split}: {why}")
        say(f"{self.rules.provider}'s form holds no id, origin or meta: they stand line by line in SPLIT.index.jsonl")

    def _checked(self, data: ExportDataset, split: str, *, pairs: bool) -> Iterator[dict[str, Any]]:
        refused: list[tuple[ExportRow, str]] = []
        for line in data.lines(split, "own"):
            media = [medium for turn in MESSAGES.validate_python(line["messages"]) for medium in turn.media]
            problem = self.rules.explain_media_refusal(media, pairs=pairs)
            made = {} if problem else format_export_row(line, data.read_media, pairs=pairs)
            if problem := problem or self.rules.explain_refusal(made):
                refused.append((line, problem))
                continue
            yield self.rules.write(made)
        if refused:
            row, problem = refused[0]
            what = f"{len(refused)} of {data.rows(split)} rows would be refused by {self.rules.provider}; the first is"
            where = SourceLocation(file=row["origin"]["file"], line=row["origin"]["line"], field=split)
            hint = "drop or mend such rows in the recipe, or export `jsonl`"
            raise DataError(f"{what} {row['id']}: {problem}", where=where, hint=hint)


class PreferenceProviderExporter(ProviderExporter):
    """The base of exporters for providers that tune on preferences and on pictures as well."""

    carries_media: ClassVar[bool] = True

    form: Literal["auto", "chat", "preference"] = "auto"
    """`preference` where every row keeps another answer in its meta (`rejected`, `non_preferred_output`);
    `auto` looks and says."""

    def holds_pairs(self, data: ExportDataset, say: Say) -> bool:
        """As the form says."""
        if self.form != "auto":
            return self.form == "preference"
        found = all(get_rejected_answer(line["meta"]) for split in data.splits for line in data.lines(split))
        if found:
            say("every row has a rejected answer: written as preference pairs")
        return found


def format_export_row(line: ExportRow, read_media: ReadBytes | None = None, *, pairs: bool) -> dict[str, Any]:
    """A row in OpenAI's form: a chat example, or a preference example; its pictures as data URLs."""
    rejected = get_rejected_answer(line["meta"]) if pairs else None
    return format_provider_example(
        MESSAGES.validate_python(line["messages"]),
        line.get("tools", ()),
        "" if pairs and rejected is None else rejected,
        read_media,
    )


def list_row_index(data: ExportDataset, split: str) -> Iterator[dict[str, Any]]:
    """What another form does not hold of each row: its number, `id`, `origin` and `meta`."""
    for number, line in enumerate(data.lines(split), start=1):
        yield {"line": number, **{name: line[name] for name in ("id", "origin", "meta")}}


class OpenaiExporter(PreferenceProviderExporter):
    """OpenAI fine-tuning JSONL, checked against OpenAI's rules; beside each file an index with what it cannot hold.

    `SPLIT.jsonl` holds `messages` (and `tools`), or `input`, `preferred_output` and `non_preferred_output`; line by
    line beside it, `SPLIT.index.jsonl` keeps `id`, `origin` and `meta`. Reasoning is left out.
    """

    kind: Literal["openai"] = "openai"

    @property
    def rules(self) -> ProviderRules:
        """What OpenAI takes."""
        return OPENAI


class AzureExporter(PreferenceProviderExporter):
    """Azure OpenAI fine-tuning JSONL, in OpenAI's form; beside each file an index with what it cannot hold."""

    kind: Literal["azure"] = "azure"

    @property
    def rules(self) -> ProviderRules:
        """What Azure OpenAI takes."""
        return AZURE


class BedrockExporter(ProviderExporter):
    """Amazon Bedrock conversation JSONL (`bedrock-conversation-2024`), by the rules for Nova; an index beside it."""

    kind: Literal["bedrock"] = "bedrock"

    @property
    def rules(self) -> ProviderRules:
        """What Amazon Bedrock takes."""
        return BEDROCK


class FireworksExporter(PreferenceProviderExporter):
    """Fireworks fine-tuning JSONL, in OpenAI's form and within Fireworks' rules; beside each file an index."""

    kind: Literal["fireworks"] = "fireworks"

    @property
    def rules(self) -> ProviderRules:
        """What Fireworks takes."""
        return FIREWORKS


class TogetherExporter(PreferenceProviderExporter):
    """Together fine-tuning JSONL, in OpenAI's form and within Together's rules; beside each file an index."""

    kind: Literal["together"] = "together"

    @property
    def rules(self) -> ProviderRules:
        """What Together takes."""
        return TOGETHER


class VertexExporter(ProviderExporter):
    """Vertex AI's JSONL for the supervised tuning of Gemini (`contents`); beside each file an index."""

    kind: Literal["vertex"] = "vertex"

    @property
    def rules(self) -> ProviderRules:
        """What Vertex AI takes."""
        return VERTEX
