"""Tiny tokenizers and the real chat templates of the installed trl package: what the tests of this room work on."""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

WORDS = [
    "The quick brown fox jumps over the lazy dog. What is the capital of France? Paris is the capital.",
    "You are a helpful assistant.\n\nAnswer briefly.\n\nuser\nassistant\nsystem\n\n\n  indented\tcode 123 4567",
    '{"name": "lookup", "arguments": {"key": "value"}} yes no maybe. Well: yes, no. hello world',
]
TOKENS = re.compile(
    r"<\|[^|<>\s]+\|>|<\|[a-z_]+>|<[a-z_]+\|>|<｜[^｜]+｜>|<(?:start|end)_of_(?:turn|utterance|image)>"
    r"|\[gMASK\]|<sop>|</?(?:s|think|tool_call|tool_response)>"
)
TAGS = re.compile(r"</?(?:think|tool_call|tool_response|tool)>")
ENDS = ("<|im_end|>", "<|eot_id|>", "<｜end▁of▁sentence｜>", "<end_of_turn>", "<|END_OF_TURN_TOKEN|>", "<|return|>")


def folder() -> Path:
    """Where the installed trl keeps its chat templates."""
    spec = find_spec("trl")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "chat_templates"


def names() -> list[str]:
    """Every template that trl carries."""
    return sorted(path.stem for path in folder().glob("*.jinja"))


@cache
def source(name: str) -> str:
    """The Jinja text of one template."""
    return (folder() / f"{name}.jinja").read_text(encoding="utf-8")


MODERN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def byte_level(*, bos_by_processor: bool = False, modern: bool = True) -> Tokenizer:
    """A byte-level BPE trained on a few lines so that it has merges, across line breaks too; it splits words as Llama 3
    and Qwen do, or (not `modern`) as GPT-2 does."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(MODERN), behavior="isolated")
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not modern)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, plain]) if modern else plain
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(WORDS, trainer)
    tokenizer.add_special_tokens(["<s>", "</s>"])
    if bos_by_processor:
        bos = tokenizer.token_to_id("<s>")
        tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", bos)])
    return tokenizer


def metaspace(*, legacy: bool = False) -> Tokenizer:
    """A BPE with byte fallback whose words begin with `▁`, as Llama 2's and Mistral's; special tokens lie in its
    vocabulary. `legacy` sets the prefix by normalization, before every stretch of text."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2}
    vocabulary |= {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    letters = sorted(set("".join(WORDS).replace(" ", "▁")) | {"▁"})
    for letter in letters:
        vocabulary.setdefault(letter, len(vocabulary))
    merges = [("▁", "t"), ("▁t", "h"), ("▁th", "e"), ("▁", "y"), ("▁y", "e"), ("▁ye", "s"), ("▁", "▁")]
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if legacy:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def dressed(backend: Tokenizer, template: str | None, **named: Any) -> PreTrainedTokenizerFast:
    """A tokenizer with a chat template and every special token that the template mentions."""
    found = list(dict.fromkeys(TOKENS.findall(template or "")))
    backend.add_special_tokens([token for token in found if not TAGS.fullmatch(token)])
    backend.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in found if TAGS.fullmatch(tag)])
    eos = next((end for end in ENDS if end in found), "</s>")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{"bos_token": "<s>", "eos_token": eos, "clean_up_tokenization_spaces": False, **named},
    )
    tokenizer.chat_template = template
    return tokenizer


def family(name: str) -> PreTrainedTokenizerFast:
    """A tiny tokenizer that carries one of trl's templates."""
    return dressed(byte_level(), source(name))
