"""What is written as GGUF against llama.cpp itself: equal logits, tokens, ends and greedy text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from luthier.core.artifact import Artifact
from luthier.models.export.check import encode_check_prompt, generate_greedy_answer
from luthier.models.export.checkpoint import export_model_folder
from luthier.models.gguf.reader import open_gguf
from luthier.models.gguf.vocabulary import SPLITS
from luthier.models.gguf.writer import Quant, write_gguf
from luthier.models.load import load_model, open_folder
from models.making import GGUF_FAMILIES, cut_as, sentence_pieces, strong_model
from tiny_models import tiny_model

llama_cpp = pytest.importorskip("llama_cpp", reason="llama.cpp is not installed (`llama-cpp-python`)")
pytestmark = pytest.mark.slow
TEXTS = [
    "Hello world",
    "It costs 1,250.75 today.\n\n1. café  2\tnaïve — 你好",
    "  def f(x):\n    return x['key']\n",
    "<|im_start|>user\nhi  there<|im_end|>\n<|im_start|>assistant\n",
    "a\u0301 \u00a0x 😀👩\u200d👩\u200d👧 ١٢٣ IT'S it'Ll don't\r\n\r\n  \t end   ",
    "<s> the  cat</s> sat<|user|>\n\nHi <|end|>\nthat<|endoftext|> cat",
    "\n" * 7 + " " * 23 + "x" + "\t" * 5,
    "    ",
]


@contextmanager
def opened(path: Path, context: int = 256) -> Iterator[Any]:
    """The file in llama.cpp, one thread, its cache in float32."""
    model = llama_cpp.Llama(
        str(path), n_ctx=context, n_batch=context, n_threads=1, logits_all=True, verbose=False, type_k=0, type_v=0
    )
    try:
        yield model
    finally:
        model.close()


def logits(model: Any, ids: list[int]) -> Any:
    """What llama.cpp thinks of the token after each."""
    import torch

    model.reset()
    model.eval(ids)
    return torch.tensor(model.scores[: len(ids)])


@pytest.mark.parametrize("name", GGUF_FAMILIES)
def test_logits_are_equal(tmp_path: Path, name: str) -> None:
    import torch

    place = strong_model(tmp_path / "model", name)
    write_gguf(place, tmp_path / "m.gguf", "tiny", None)
    ids = torch.randint(3, 390, (1, 100), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        wanted = open_folder(place, torch.float32)(input_ids=ids).logits[0]
    with opened(tmp_path / "m.gguf") as model:
        came = logits(model, ids[0].tolist())
    torch.testing.assert_close(came, wanted, atol=0.02, rtol=0)


def test_a_context_that_is_asked_for_takes_the_factors_of_long_texts(tmp_path: Path) -> None:
    import torch

    place = strong_model(tmp_path / "model", "phi3-long")
    write_gguf(place, tmp_path / "m.gguf", "tiny", None)
    ids = torch.randint(3, 390, (1, 300), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        wanted = open_folder(place, torch.float32)(input_ids=ids).logits[0]
    with opened(tmp_path / "m.gguf", 512) as model:
        torch.testing.assert_close(logits(model, ids[0].tolist()), wanted, atol=0.02, rtol=0)


@pytest.mark.parametrize("name", ["llama", "qwen3-moe", "gpt2", "gemma3"])
@pytest.mark.parametrize(("quant", "off"), [("q8_0", 0.05), ("q4_0", 0.3)])
def test_quantized_logits_are_near(tmp_path: Path, name: str, quant: Quant, off: float) -> None:
    """llama.cpp rounds what goes into a quantized matrix, too."""
    import torch

    place = strong_model(tmp_path / "model", name)
    write_gguf(place, tmp_path / "m.gguf", "tiny", None, quant)
    ids = torch.randint(3, 390, (1, 100), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        wanted = open_gguf(tmp_path / "m.gguf")(input_ids=ids).logits[0]
    with opened(tmp_path / "m.gguf") as model:
        came = logits(model, ids[0].tolist())
    assert (came - wanted).abs().mean() < off * wanted.std()


@pytest.mark.parametrize("cut", ["gpt-2", "smollm", *SPLITS.values(), "pieces", "prefixed pieces", "phi-3"])
def test_text_becomes_the_same_tokens(tmp_path: Path, cut: str) -> None:
    from transformers import AutoTokenizer

    place = tiny_model(tmp_path / "model")
    if cut in ("pieces", "prefixed pieces", "phi-3"):
        sentence_pieces(place, prefix=cut != "pieces", stripped=cut == "phi-3")
    else:
        cut_as(place, cut)
    (place / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 5, 4]}))
    write_gguf(place, tmp_path / "m.gguf", "my model", None)
    before = AutoTokenizer.from_pretrained(place)
    with opened(tmp_path / "m.gguf") as model:
        for text in TEXTS:
            for bos in (False, True):
                wanted = before.encode(text, add_special_tokens=bos)
                assert model.tokenize(text.encode(), add_bos=bos, special=True) == wanted, text
        assert model.metadata["tokenizer.chat_template"] == before.chat_template
        vocab = model._model.vocab
        assert all(llama_cpp.llama_vocab_is_eog(vocab, token) for token in (2, 5, 4))
        assert model.token_bos() == before.bos_token_id


@pytest.mark.model
def test_the_real_model_says_the_same(smollm2: Artifact, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    to = export_model_folder(smollm2, tmp_path / "out", "gguf")
    ids = encode_check_prompt(smollm2.folder)
    wanted = generate_greedy_answer(load_model(smollm2, "float32").model, ids)
    before = AutoTokenizer.from_pretrained(smollm2.folder, local_files_only=True)
    with opened(next(to.glob("*.gguf"))) as model:
        came = logits(model, ids + wanted.tokens)
        assert came[len(ids) - 1 : -1].argmax(-1).tolist() == wanted.tokens
        for text in TEXTS:
            assert model.tokenize(text.encode(), add_bos=False, special=True) == before.encode(text), text
            assert model.detokenize(before.encode(text), special=True).decode() == text
