"""Operator that scores toxicity, by lists of words or by a classifier of yours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from luthier.core.errors import RecipeError, SourceLocation, did_you_mean
from luthier.core.files import PathText, resolve_path
from luthier.core.hashing import digest_of, file_digest
from luthier.core.param_space import ParamDistribution
from luthier.data.operator import Column, Drop, OperatorResult, Reads, RowOperator
from luthier.data.row import Row
from luthier.lang.lexicons import count_swear_words

_CODES = "cs da de el en es fi fr hu id it ja ko nl no pl pt ro ru sv th tr uk"
LANGUAGES = frozenset(_CODES.split())
_CALM = frozenset({"non-toxic", "not toxic", "neutral", "normal", "safe", "clean", "label_0"})
"""Names of classes that say that nothing is wrong."""
_LONGEST_CHARS = 2000
"""A classifier reads so much of a text."""


class ToxicityOperator(RowOperator):
    """Score insults and obscenities, and drop or flag rows above a limit.

    The score is the share of words on lists of swear words (the package `badwords-py`, by the extra `toxicity`); with
    `model`, the probability that a text classifier of yours gives to its worst class. A word list knows no context: it
    finds an insult and the report of one alike. It never suggests itself: angry customers are what a desk must learn to
    answer, and a moderator is taught by rude rows.
    """

    kind: Literal["toxicity"] = "toxicity"
    libraries: ClassVar[Mapping[str, str]] = {"badwords": "toxicity"}
    reads: ClassVar[tuple[Reads, ...]] = ("prompt", "answer")
    writes: ClassVar[dict[str, Column]] = {"score": "number", "words": "count"}

    languages: tuple[str, ...] = ("en",)
    """Languages whose lists are used; a word that is rude in one may be plain in another, so name only yours."""
    model: PathText | None = None
    """The folder of a sequence classifier (safetensors), instead of the lists."""
    of: Literal["prompt", "answer", "both"] = "both"
    """Whose words count; with both, the higher score."""
    max: float = Field(default=0.0, ge=0, le=1)
    """Rows with a higher score are dropped: by default, rows with any such word. For a model, 0.5 is usual."""
    action: Literal["drop", "flag"] = "flag"
    """Leave such rows out, or only write the score."""
    ignore: tuple[str, ...] = ()
    """Words that are no insult here, such as the name of a product."""

    @field_validator("languages")
    @classmethod
    def _known_languages(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for code in value:
            if code not in LANGUAGES:
                raise ValueError(f"there is no list for language {code!r}; {did_you_mean(code, LANGUAGES)}")
        return value

    def check_installed(self, recipe_dir: Path) -> None:
        """Only the lists are a library."""
        if self.model is None:
            super().check_installed(recipe_dir)

    def at(self, recipe_dir: Path, kept: Path | None = None) -> ToxicityOperator:
        """The operator with its model's place written out."""
        return (
            self if self.model is None else self.model_copy(update={"model": str(resolve_path(self.model, recipe_dir))})
        )

    def fingerprint(self, recipe_dir: Path) -> str | None:
        """A digest of the classifier's files."""
        folder = resolve_path(self.model, recipe_dir) if self.model is not None else None
        if folder is None or not folder.is_dir():
            return None
        files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".txt"))
        return digest_of([(path.name, file_digest(path)) for path in files])

    def apply(self, rows: Sequence[Row]) -> OperatorResult:
        """Score each row, and say what is above the limit."""
        texts = [text for row in rows for text in (row.prompt, row.answer)]
        words, scores = self._by_model(texts) if self.model is not None else self._by_words(texts)
        chosen = {"prompt": slice(0, 1), "answer": slice(1, 2), "both": slice(0, 2)}[self.of]
        score = [round(max(scores[at : at + 2][chosen]), 4) for at in range(0, len(texts), 2)]
        count = [sum(words[at : at + 2][chosen]) for at in range(0, len(texts), 2)]
        outcome = OperatorResult(attributes={"score": score, "words": count})
        if self.action == "drop":
            for index, value in enumerate(score):
                if value > self.max:
                    outcome.drops[index] = Drop(f"toxic: {value:g}, expected at most {self.max:g}")
        return outcome

    def _by_words(self, texts: Sequence[str]) -> tuple[list[int], list[float]]:
        """Listed words of each text, and their share of all words."""
        found = count_swear_words(texts, self.languages, self.ignore)
        shares = [min(1.0, count / max(1, len(text.split()))) for count, text in zip(found, texts, strict=True)]
        return found, shares

    def _by_model(self, texts: Sequence[str]) -> tuple[list[int], list[float]]:
        """The probability of the worst class; one text at a time, so that none depends on its neighbours."""
        return [0] * len(texts), [self._worst(text[:_LONGEST_CHARS]) if text.strip() else 0.0 for text in texts]

    def _worst(self, text: str) -> float:
        import torch

        tokenizer, model, bad = self._classifier
        with torch.inference_mode():
            logits = model(**tokenizer(_encodable(text), return_tensors="pt", truncation=True)).logits[0].double()
        is_one_of = model.config.problem_type != "multi_label_classification" and len(logits) > 1
        shares = logits.softmax(0) if is_one_of else logits.sigmoid()
        return float(shares[bad].max())

    @cached_property
    def _classifier(self) -> tuple[Any, Any, list[int]]:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        assert self.model is not None
        options = {"local_files_only": True, "trust_remote_code": False}
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.model, **options)
            model = AutoModelForSequenceClassification.from_pretrained(self.model, use_safetensors=True, **options)
        except (OSError, ValueError) as error:
            hint = "name the folder of a sequence classifier with safetensors weights and its tokenizer"
            raise RecipeError(f"cannot load: {error}", where=SourceLocation(field="model"), hint=hint) from error
        names = {int(at): str(name).lower() for at, name in model.config.id2label.items()}
        bad = [at for at, name in sorted(names.items()) if name not in _CALM]
        return tokenizer, model.eval(), bad or sorted(names)

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """From which score on rows are dropped: a share of words, or a probability."""
        if self.action != "drop":
            return {}
        return {"max": ParamDistribution(0.0, 0.1 if self.model is None else 0.95)}


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
