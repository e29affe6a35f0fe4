"""Tokenizers in llama.cpp's form: byte-level BPE by its merges, SentencePiece BPE by a score for each token.

llama.cpp identifies the pre-tokenization of a byte-level tokenizer by name. For SentencePiece it stores no merges:
among all adjacent pairs that form a token, those with the highest score are merged first. That is equivalent only where
every way to form a token is among the merges, all of one token's consecutively; this is checked here.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.core.errors import ModelError, SourceLocation
from luthier.models.describe import read_chat_template, read_json_object

if TYPE_CHECKING:
    from gguf import GGUFWriter

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}{_REST}"
_QWEN2 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{_REST}"
SPLITS = {(_LLAMA3, True): "llama-bpe", (_LLAMA3, False): "dbrx", (_QWEN2, False): "qwen2"}
"""Split patterns of byte-level tokenizers, and whether a word that is a token is never split; and llama.cpp's names for
the combinations."""
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""SentencePiece's symbol for a space."""
_PHI3 = re.compile("phi-?3", re.IGNORECASE)
"""Names of models whose special tokens strip the space after them: llama.cpp recognizes Phi-3 by name."""
PHI3_PLAIN = frozenset({"<unk>", "<s>", "<|endoftext|>"})
"""Phi-3's special tokens that do not."""


class GgufVocabulary(NamedTuple):
    """A vocabulary, one entry for each token of the model."""

    tokens: list[str]
    kinds: list[int]
    scores: list[float] | None


class LlamaCppTokenizer(ABC):
    """A tokenizer (vocabulary, merges, special tokens) in the form that a GGUF file holds."""

    model: str
    """llama.cpp's name of the algorithm."""
    pre: str
    """llama.cpp's name of the pre-tokenization."""
    prefix = False
    """Whether a space is added before a text."""

    def __init__(self, folder: Path, record: dict[str, Any]) -> None:
        self.folder = folder
        self.json = record
        self.added: list[dict[str, Any]] = record["added_tokens"]
        self.config = read_json_object(folder / "tokenizer_config.json")
        self._check()

    def add_to(self, writer: GGUFWriter, size: int) -> None:
        """Write the vocabulary for a model of `size` tokens, special tokens and chat template."""
        entries = self._entries(size)
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(entries.tokens)
        writer.add_token_types(entries.kinds)
        if entries.scores is None:
            writer.add_token_merges([" ".join(pair) for pair in self._merges()])
        else:
            writer.add_token_scores(entries.scores)
        self._add_special(writer, {token: at for at, token in enumerate(entries.tokens)})
        writer.add_add_space_prefix(self.prefix)
        if (template := read_chat_template(self.folder)) is not None:
            writer.add_chat_template(template)

    def named(self, name: str) -> str:
        """Return a model name with which llama.cpp strips the space after special tokens where the tokenizer does."""
        stripped = any(entry.get("rstrip") for entry in self.added)
        if stripped is is_phi3(name):
            return name
        return f"{name} (phi-3)" if stripped else _PHI3.sub("phi_3", name)

    @abstractmethod
    def _check(self) -> None:
        """Refuse features that llama.cpp does not support."""

    @abstractmethod
    def _fill(self, tokens: list[str], kinds: list[int]) -> list[float] | None:
        """Fill in the vocabulary; return the scores of the tokens, where the algorithm uses them."""

    def _entries(self, size: int) -> GgufVocabulary:
        tokens = [f"[PAD{index}]" for index in range(size)]
        kinds = [_UNUSED] * size
        given = [*self._vocabulary().items(), *((entry["content"], entry["id"]) for entry in self.added)]
        if outside := next((token for token, index in given if index >= size), None):
            raise self._refusal(f"its token {outside!r} lies outside the model's vocabulary")
        scores = self._fill(tokens, kinds)
        if len(set(tokens)) < len(tokens):
            raise self._refusal("two of its tokens are spelt alike")
        return GgufVocabulary(tokens, kinds, scores)

    def _vocabulary(self) -> dict[str, int]:
        vocabulary: dict[str, int] = self.json["model"]["vocab"]
        return vocabulary

    def _merges(self) -> list[tuple[str, str]]:
        pairs = (tuple(entry.split(" ") if isinstance(entry, str) else entry) for entry in self.json["model"]["merges"])
        return [(left, right) for left, right in pairs]

    def _add_special(self, writer: GGUFWriter, ids: dict[str, int]) -> None:
        special = {}
        for kind in ("bos", "eos", "unk", "pad"):
            token = self.config.get(f"{kind}_token")
            token = token.get("content") if isinstance(token, dict) else token
            if token in ids:
                special[kind] = ids[token]
                getattr(writer, f"add_{kind}_token_id")(ids[token])
        self._add_ends(writer, special.get("eos"))
        around = self._find_special_ids()
        writer.add_add_bos_token("bos" in special and around[:1] == [special["bos"]])
        writer.add_add_eos_token("eos" in special and around[1:] == [special["eos"]])
        if around not in ([], [special.get("bos")], [special.get("bos"), special.get("eos")]):
            raise self._refusal("it puts other tokens around a text than its first and last one")

    def _add_ends(self, writer: GGUFWriter, eos: int | None) -> None:
        """Write further end-of-generation tokens, by generation_config.json."""
        path = self.folder / "generation_config.json"
        eos_ids = read_json_object(path).get("eos_token_id") if path.is_file() else None
        ends = [
            eos_id_ for eos_id_ in (eos_ids if isinstance(eos_ids, list) else [eos_ids]) if eos_id_ not in (None, eos)
        ]
        if len(ends) > 2:
            raise self._refusal("answers end at more tokens than llama.cpp has places for")
        for add, end in zip((writer.add_eot_token_id, writer.add_eom_token_id), ends, strict=False):
            add(end)

    def _find_special_ids(self) -> list[int]:
        """Return the special tokens around a single text."""
        from tokenizers import Tokenizer

        return list(Tokenizer.from_str(json.dumps(self.json)).encode("").ids)

    def _check_added(self) -> None:
        """Refuse added tokens that llama.cpp would match differently."""
        if any(entry.get("lstrip") or entry.get("single_word") for entry in self.added):
            raise self._refusal("some of its special tokens take the space before them, or are whole words only")
        stripped = {entry["content"] for entry in self.added if entry.get("rstrip")}
        added = {entry["content"] for entry in self.added}
        as_phi3 = stripped == added - PHI3_PLAIN and added >= {*PHI3_PLAIN, "</s>"} and all(map(str.strip, added))
        if stripped and not as_phi3:
            raise self._refusal("some of its special tokens take the space after them, and not those of Phi-3")

    def _refusal(self, why: str) -> ModelError:
        return unsupported_tokenizer_error(self.folder, why)


class ByteLevelBpe(LlamaCppTokenizer):
    """Byte-level BPE, by its merges."""

    model = "gpt2"

    def _check(self) -> None:
        model = self.json["model"]
        if any(model.get(name) for name in ("continuing_subword_prefix", "end_of_word_suffix", "dropout")):
            raise self._refusal("its pieces of words are marked, or merged at random")
        if (kind := (self.json.get("normalizer") or {}).get("type")) not in (None, "NFC"):
            raise self._refusal(f"llama.cpp does not change text before cutting it, as its {kind} does")
        self.pre = self._pre()
        self._check_added()

    def _pre(self) -> str:
        parts = _parts(self.json.get("pre_tokenizer"), "pretokenizers")
        kinds = [part.get("type") for part in parts]
        plain = not self.json["model"].get("ignore_merges")
        if kinds[-1] == "ByteLevel" and not parts[-1].get("add_prefix_space"):
            by_gpt2 = parts[-1].get("use_regex", True)
            if kinds == ["ByteLevel"] and by_gpt2 and plain:
                return "gpt-2"
            if kinds == ["Digits", "ByteLevel"] and by_gpt2 and parts[0].get("individual_digits") and plain:
                return "smollm"
            cut = parts[0].get("pattern", {}).get("Regex")
            if kinds == ["Split", "ByteLevel"] and not by_gpt2 and (known := SPLITS.get((cut, not plain))):
                return known
        raise self._refusal("llama.cpp has no name for how it cuts text")

    def _fill(self, tokens: list[str], kinds: list[int]) -> None:
        for token, index in self._vocabulary().items():
            tokens[index], kinds[index] = token, _NORMAL
        for entry in self.added:
            tokens[entry["id"]] = entry["content"]
            kinds[entry["id"]] = _CONTROL if entry["special"] else _USER_DEFINED


class SentencePieceBpe(LlamaCppTokenizer):
    """SentencePiece BPE, by a score for each token, with byte fallback."""

    model = "llama"
    pre = "default"

    def _check(self) -> None:
        self.prefix = self._prefix()
        if any(f"<0x{byte:02X}>" not in self._vocabulary() for byte in range(256)):
            raise self._refusal("its vocabulary lacks bytes")
        if any(entry.get("normalized") for entry in self.added):
            raise self._refusal("it looks for its special tokens in changed text")
        self._check_added()

    def _prefix(self) -> bool:
        """Return whether a space is added before a text; refuses other normalizations."""
        steps = [self._step(part) for part in _parts(self.json.get("normalizer"), "normalizers")]
        cut = self.json.get("pre_tokenizer")
        nothing = cut is None or (
            cut.get("type") == "Split"
            and cut.get("pattern") == {"String": " "}
            and cut.get("behavior") == "MergedWithPrevious"
        )  # as Gemma's: no space is left to cut at
        if nothing and steps in (["space"], ["prefix", "space"]):
            return len(steps) == 2
        raise self._refusal("llama.cpp does not change text before cutting it as its normalizer does")

    @staticmethod
    def _step(step: dict[str, Any]) -> str:
        kind, what = step.get("type"), step.get("prepend") or step.get("content")
        if what != _SPACE or kind not in ("Prepend", "Replace"):
            return "other"
        if kind == "Prepend":
            return "prefix"
        return "space" if step.get("pattern") == {"String": " "} else "other"

    def _fill(self, tokens: list[str], kinds: list[int]) -> list[float]:
        ranks = self._ranks()
        scores = [float(-len(ranks) - 1)] * len(tokens)
        unknown = self.json["model"].get("unk_token")
        for token, index in self._vocabulary().items():
            tokens[index], kinds[index] = token, _BYTE if _is_byte(token) else _NORMAL
            scores[index] = float(-ranks.get(token, len(ranks)))
        for entry in self.added:
            by_merges = _SPACE in entry["content"] and entry["content"] in ranks
            if entry["special"] or not by_merges:  # a text never holds what stands for a space
                tokens[entry["id"]] = entry["content"]
                kinds[entry["id"]] = _CONTROL if entry["special"] else _USER_DEFINED
        if unknown in self._vocabulary():
            kinds[self._vocabulary()[unknown]] = _UNKNOWN
        return scores

    def _ranks(self) -> dict[str, int]:
        """Return the order in which tokens are formed, after checking that it depends on the token alone."""
        merges = self._merges()
        self._check_whole(merges)
        ranks: dict[str, int] = {}
        for tied in _ties(merges):
            indices = sorted(at for each in tied.values() for at in each)
            if len(tied) > 1 and not _grows_from_the_left([merges[at] for at in indices]):
                raise self._refusal("its merges go by more than the token that they make")
            ranks |= dict.fromkeys(tied, len(ranks))
        return ranks

    def _check_whole(self, merges: list[tuple[str, str]]) -> None:
        known, pairs = self._vocabulary(), set(merges)
        apart = {entry["content"] for entry in self.added if entry["special"] or _SPACE not in entry["content"]}
        for token in known:
            if len(token) > 1 and token not in apart and not _is_byte(token):
                for at in range(1, len(token)):
                    pair = token[:at], token[at:]
                    if pair not in pairs and all(part in known or len(part) == 1 for part in pair):
                        raise self._refusal(f"its merges leave out a way to make {token!r}")


def _ties(merges: list[tuple[str, str]]) -> Iterator[dict[str, list[int]]]:
    """Yield tokens with the indices of their merges, grouped where their merges interleave."""
    merge_indices: dict[str, list[int]] = {}
    for at, (left, right) in enumerate(merges):
        merge_indices.setdefault(left + right, []).append(at)
    tied: dict[str, list[int]] = {}
    end = -1
    for token, groups in merge_indices.items():  # by their first place
        if tied and groups[0] > end:
            yield tied
            tied = {}
        tied[token] = groups
        end = max(end, groups[-1])
    if tied:
        yield tied


def _grows_from_the_left(merges: list[tuple[str, str]]) -> bool:
    """Return whether merges build runs of one character from the left, as llama.cpp does with equal scores."""
    sizes = [(len(left), len(right)) for left, right in merges]
    return len(set("".join(left + right for left, right in merges))) == 1 and sizes == sorted(sizes, reverse=True)


def read_llama_cpp_tokenizer(folder: Path) -> LlamaCppTokenizer:
    """Return the tokenizer in a folder; `ModelError` when llama.cpp would tokenize differently."""
    config = read_json_object(folder / "tokenizer.json")
    model = config["model"]
    if model.get("type") != "BPE":
        raise unsupported_tokenizer_error(folder, "it is not a BPE tokenizer")
    return (SentencePieceBpe if model.get("byte_fallback") else ByteLevelBpe)(folder, config)


def is_phi3(name: str | None) -> bool:
    """Return whether llama.cpp treats a model as Phi-3 by its name, and strips the space after its special tokens."""
    return bool(_PHI3.search(name or ""))


def unsupported_tokenizer_error(folder: Path, why: str) -> ModelError:
    """Build the error for a tokenizer that cannot be written."""
    return ModelError(
        f"GGUF cannot be written with this tokenizer: {why}",
        where=SourceLocation(file=str(folder / "tokenizer.json")),
        hint="export the model as `hf` or `merged`, and convert that with llama.cpp's own script",
    )


def _parts(component: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    """Return the steps of a sequence, or the single step."""
    top = component or {}
    steps: list[dict[str, Any]] = top[name] if top.get("type") == "Sequence" else [top]
    return steps


def _is_byte(token: str) -> bool:
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")
