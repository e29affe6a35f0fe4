"""What single augmenters do that the conformance suite cannot know."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import polars as pl
import pytest

from luthier.artifacts.dataset import MADE
from luthier.core.errors import DataError, LuthierError, ModelError
from luthier.data.augment.completions import strip_answer_wrapping
from luthier.data.augment.translator import Translator
from luthier.data.augmenter import AugmentedDraft, Augmenter
from luthier.data.augmenters.image_noise import ImageNoise
from luthier.data.augmenters.synonyms import Synonyms, safe_synonyms_of
from tests.augmenting import Bench, answer, endpoint_model, image
from tests.endpoint import Body, Reply, completion, serving

FASHION = Path(__file__).resolve().parents[4] / "shared" / "data" / "fashion_mnist_mini"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("bench")
    with serving(answer) as server:
        yield Bench(folder, model=endpoint_model(tmp_path_factory.mktemp("model"), server.url))


def _drafts(bench: Bench, **settings: Any) -> list[AugmentedDraft | None]:
    augmenter = Augmenter.parse(settings)
    return list(augmenter.write(bench.wishes(settings["kind"], 200), bench.around()))


@pytest.mark.parametrize(
    ("word", "other"),
    [
        ("purchase", "buy"),
        ("purchases", "buys"),
        ("purchasing", "buying"),
        ("replied", "responded"),
        ("quickly", "rapidly"),
    ],
)
def test_synonyms_keep_the_form(word: str, other: str) -> None:
    assert other in safe_synonyms_of(word, 0)


@pytest.mark.parametrize("word", ["the", "is", "went", "qwertz", "ox", "Anna's"])
def test_words_without_a_safe_synonym_stay(word: str) -> None:
    assert safe_synonyms_of(word, 0.5) == ()


def test_an_article_goes_with_its_word() -> None:
    made = {
        change.text for seed in range(20) if (change := Synonyms(certainty=0).replace_words("an answer", Random(seed)))
    }
    assert made
    assert all(text.startswith("a ") for text in made if text.split()[1][0] not in "aeiou")


def test_synonyms_leave_other_languages_alone(tmp_path: Path) -> None:
    texts = [f"Bitte schicken Sie mir die Rechnung Nummer {n} noch einmal zu" for n in range(40)]
    own = [{"message": text, "category": f"c{n % 2}", "customer": str(n)} for n, text in enumerate(texts)]
    assert not any(_drafts(Bench(tmp_path, own), kind="synonyms"))


def test_templates_put_in_only_what_the_class_says(bench: Bench) -> None:
    found = [draft for draft in _drafts(bench, kind="templates", phrases=[]) if draft is not None]
    assert found
    by_id = {row.id: row for row in bench.train.rows()}
    for draft in found:
        other = draft.did[0].split("'")[1]
        assert other in by_id[draft.parents[0]].prompt
        assert by_id[draft.parents[0]].answer == draft.messages[-1].content


def test_templates_of_free_text_leave_what_the_answer_names(tmp_path: Path) -> None:
    own = [
        {"message": f"Where is my {thing} {place}?", "category": f"The {thing} is on its way to you.", "customer": "c"}
        for thing in ("parcel", "letter", "lamp")
        for place in ("today", "now", "please")
    ]
    bench = Bench(tmp_path, own[:-1], task="text", split={"test": 1})
    for draft in _drafts(bench, kind="templates", phrases=[]):
        assert draft is None or not {"parcel", "letter", "lamp"} & set(draft.did[0].split("'"))


def test_balance_brings_rare_classes_to_the_ratio_and_others_to_nothing(bench: Bench) -> None:
    real = bench.train.labels
    most = max(real.values())
    made = bench.augment([{"kind": "balance", "ratio": 0.9}], share=0.9)
    counts = dict(made.frame("train").group_by("label").len().iter_rows())
    for label, count in counts.items():
        assert count == max(real[label], -(-9 * most // 10))
    assert set(made.added()["source"]) == {"balance"}


def test_balance_wants_classes(tmp_path: Path) -> None:
    own = [
        {"message": f"question {n}?", "category": f"An answer of its own, number {n}", "customer": ""}
        for n in range(30)
    ]
    with pytest.raises(DataError, match="wants classes"):
        Bench(tmp_path, own).augment(["balance"])
    with pytest.raises(ValueError, match="other augmenters"):
        Augmenter.parse({"kind": "balance", "by": ["balance"]})


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ('Sure, here is the message:\n\n"Where is it?"', "Where is it?"),
        ("1. Where is it?", "Where is it?"),
        ("“Where is it?”", "Where is it?"),
        ("Note: this stays", "Note: this stays"),
        ("Dear team:\nwhere is it", "where is it"),
        ('"A" and "B"', '"A" and "B"'),
    ],
)
def test_what_stands_around_an_answer_is_taken_off(said: str, text: str) -> None:
    assert strip_answer_wrapping(said) == text


def test_new_rows_of_free_text_get_an_answer_of_their_own(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    own = [
        {
            "message": f"How do I clean the {thing} {n}?",
            "category": f"Use a wet cloth {n} times, then dry it.",
            "customer": "",
        }
        for n, thing in enumerate(["lamp", "pan", "oven", "kettle", "grill", "sink"] * 5)
    ]
    with serving(answer) as server:
        bench = Bench(tmp_path, own, model=endpoint_model(tmp_path_factory.mktemp("model"), server.url), task="text")
        made = bench.augment([{"kind": "instruct", "copies": 2}])
    added = made.added()
    assert added.height
    for messages, meta in added.select("messages", "meta").iter_rows():
        assert json.loads(messages)[-1]["content"].startswith("That depends")
        assert len(json.loads(meta)[MADE]["parents"]) > 1
    assert "the judge says no" in " ".join(made.summary.dropped)


def test_a_killed_making_asks_nothing_twice(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    calls: list[str] = []

    def counted(body: Body) -> Reply:
        calls.append(json.dumps(body, sort_keys=True))
        return Reply(status=400, body={"error": {"message": "enough"}}) if len(calls) == 30 else answer(body)

    with serving(counted) as server:
        bench = Bench(tmp_path, model=endpoint_model(tmp_path_factory.mktemp("model"), server.url))
        with pytest.raises(ModelError, match="enough"):
            bench.augment(["paraphrase"])
        kept = sorted(bench.folder.glob("scratch*/asked"))[-1]
        shutil.copytree(kept, bench.folder / f"scratch{bench.made + 1}" / "asked")
        whole = bench.augment(["paraphrase"])
    assert len(set(calls)) == len(calls) - 1
    assert whole.added().height


def test_a_model_can_be_the_judge_of_classes(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    def judge(body: Body) -> Reply:
        said = "delivery" if "parcel" in body["messages"][-1]["content"] else "billing"
        return Reply(completion(said, body))

    with serving(judge) as server:
        bench = Bench(tmp_path, model=endpoint_model(tmp_path_factory.mktemp("model"), server.url))
        made = bench.augment(["noise"], checks={"label": "model"}, model="model")
    assert set(made.added()["label"]) <= {"delivery", "billing"}
    assert made.summary.dropped["made, label not kept"]


def _pieces(folder: Path) -> list[str]:
    """The pieces of a small sentencepiece model, written to `source.model`."""
    import sentencepiece

    texts = folder / "texts.txt"
    texts.write_text("\n".join(f"where is my parcel number {n} and the invoice of {n}" for n in range(200)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(texts), model_prefix=str(folder / "source"), vocab_size=60, minloglevel=2, hard_vocab_limit=False
    )
    return [line.split("\t")[0] for line in (folder / "source.vocab").read_text(encoding="utf-8").splitlines()]


def _seq2seq(folder: Path) -> Path:
    """A random Marian model of two layers with a tokenizer that knows these texts' pieces."""
    import torch
    from transformers import MarianConfig, MarianMTModel, MarianTokenizer

    folder.mkdir()
    names = _pieces(folder)
    shutil.copy(folder / "source.model", folder / "source.spm")
    shutil.copy(folder / "source.model", folder / "target.spm")
    own = ["</s>", "<unk>", *(name for name in names if name not in ("<unk>", "<s>", "</s>")), "<pad>"]
    (folder / "vocab.json").write_text(json.dumps({name: number for number, name in enumerate(own)}))
    tokenizer = MarianTokenizer(
        str(folder / "source.spm"),
        str(folder / "target.spm"),
        str(folder / "vocab.json"),
        source_lang="en",
        target_lang="de",
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(1)
    size = len(own)
    config = MarianConfig(
        vocab_size=size, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, pad_token_id=size - 1, eos_token_id=0,
        decoder_start_token_id=size - 1, forced_eos_token_id=0, max_position_embeddings=64,
    )  # fmt: skip
    MarianMTModel(config).save_pretrained(folder)
    return folder


@pytest.mark.filterwarnings("ignore")
def test_folders_of_marian_models_translate_there_and_back(tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    model = _seq2seq(tmp_path / "marian")
    (tmp_path / "data").mkdir()
    bench = Bench(tmp_path / "data")
    told = {"kind": "back_translation", "there": str(model), "back": str(model), "max_tokens": 12}
    augmenter = Augmenter.parse(told)
    assert not augmenter.needs_model()
    wishes = bench.wishes("back_translation", 4)
    once = augmenter.write(wishes, bench.around())
    assert once == augmenter.write(wishes, bench.around())
    assert [augmenter.write([wish], bench.around())[0] for wish in wishes] == once
    assert all(draft is not None and draft.did == ("translated to German and back",) for draft in once)
    assert once != augmenter.write([wish._replace(seed=wish.seed + 2) for wish in wishes], bench.around())
    first = augmenter.fingerprint(tmp_path)
    (model / "extra").write_text("x")
    assert augmenter.fingerprint(tmp_path) != first


def _many(folder: Path, kind: str) -> Path:
    """A random model of many languages, as M2M100 or NLLB, with a tokenizer of its kind that knows letters."""
    import torch
    from transformers import M2M100Config, M2M100ForConditionalGeneration, M2M100Tokenizer, NllbTokenizer

    folder.mkdir()
    if kind == "nllb":
        letters = {
            name: number
            for number, name in enumerate(["<s>", "<pad>", "</s>", "<unk>", "\u2581", *"abcdefghijklmnopqrstuvwxyz"])
        }
        tokenizer = NllbTokenizer(vocab=letters, merges=[], src_lang="eng_Latn", tgt_lang="deu_Latn")
    else:
        names = _pieces(folder)
        own = ["<s>", "<pad>", "</s>", "<unk>", *(name for name in names if name not in ("<unk>", "<s>", "</s>"))]
        (folder / "vocab.json").write_text(json.dumps({name: number for number, name in enumerate(own)}))
        tokenizer = M2M100Tokenizer(
            str(folder / "vocab.json"), str(folder / "source.model"), src_lang="en", tgt_lang="de"
        )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(1)
    config = M2M100Config(
        vocab_size=len(tokenizer) + 200, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=512,
    )  # fmt: skip
    M2M100ForConditionalGeneration(config).save_pretrained(folder)
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "names"), [("m2m", ("__en__", "__de__")), ("nllb", ("eng_Latn", "deu_Latn"))])
def test_one_model_of_many_languages_goes_both_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, names: tuple[str, str]
) -> None:
    pytest.importorskip("sentencepiece")
    from transformers import M2M100ForConditionalGeneration

    model = _many(tmp_path / "many", kind)
    (tmp_path / "data").mkdir()
    bench = Bench(tmp_path / "data")
    told = {"kind": "back_translation", "there": str(model), "back": str(model), "via": ["de"], "max_tokens": 8}
    augmenter = Augmenter.parse({**told, "temperature": 1.0})
    went: list[tuple[list[int], list[int]]] = []
    generate = M2M100ForConditionalGeneration.generate

    def heard(self: Any, **settings: Any) -> Any:
        made = generate(self, **settings)
        went.append((settings["input_ids"][0].tolist(), made[0].tolist()))
        return made

    monkeypatch.setattr(M2M100ForConditionalGeneration, "generate", heard)
    wishes = bench.wishes("back_translation", 3)
    drafts = augmenter.write(wishes, bench.around())
    tokenizer = Translator(model)._tokenizer
    own, other = (tokenizer.convert_tokens_to_ids(name) for name in names)
    assert tokenizer.unk_token_id not in (own, other)
    assert [(asked[0], made[1]) for asked, made in went] == [(own, other)] * 3 + [(other, own)] * 3
    assert all(draft is not None and draft.did == ("translated to German and back",) for draft in drafts)
    assert drafts == augmenter.write(wishes, bench.around())
    with pytest.raises(ModelError, match="does not know the language"):
        Translator(model).translate("where", "en", "xx", seed=1, temperature=0, limit=4)


def test_translation_settings_that_cannot_be_are_refused(tmp_path: Path) -> None:
    for wrong, what in (
        ({"there": "a"}, "go together"),
        ({"via": ["xx"]}, "unknown"),
        ({"via": ["en"]}, "own language"),
    ):
        with pytest.raises(ValueError, match=what):
            Augmenter.parse({"kind": "back_translation", **wrong})
    (tmp_path / "data").mkdir()
    bench = Bench(tmp_path / "data")
    (tmp_path / "empty").mkdir()
    broken = Augmenter.parse(
        {"kind": "back_translation", "there": str(tmp_path / "empty"), "back": str(tmp_path / "empty")}
    )
    with pytest.raises(ModelError, match="no translation model"):
        broken.write(bench.wishes("b", 1), bench.around())


def _pixels(url: str) -> Any:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))


def test_each_noise_of_an_image_does_what_it_says(bench: Bench) -> None:
    quiet = {"kind": "image_noise", "blur": 0, "jpeg": 0, "brightness": 0, "crop": 0}
    before = _pixels(image(0)).astype(float)
    for name, value in (("blur", 3.0), ("jpeg", 1.0), ("brightness", 0.5), ("crop", 0.5)):
        wish = replace_image(bench, image(0))
        draft = Augmenter.parse({**quiet, name: value}).write([wish], bench.around())[0]
        assert draft is not None
        after = _pixels(draft.meta["image"]).astype(float)
        assert after.shape == before.shape
        assert (after != before).any()
        if name == "blur":
            assert after.std() < before.std()
    with pytest.raises(ValueError, match="every strength is 0"):
        ImageNoise.model_validate(quiet)


def replace_image(bench: Bench, value: str) -> Any:
    wish = bench.wishes("image_noise", 1)[0]
    return wish._replace(row=replace(wish.row, meta={"image": value}))


@pytest.mark.parametrize(
    ("value", "settings", "what"),
    [
        ("picture.png", {}, "set `folder`"),
        ("data:image/png;base64,bm8gaW1hZ2U=", {}, "no image"),
        ("../secret.png", {"folder": "."}, "leads out"),
        ("absent.png", {"folder": "."}, "cannot be read"),
        ("round/a.png", {"folder": "."}, "cannot be read"),
        ("a\0b.png", {"folder": "."}, "cannot be read"),
        ("a.png", {"folder": "round"}, "cannot be read"),
    ],
)
def test_a_bad_image_is_said_with_its_row(bench: Bench, value: str, settings: dict[str, Any], what: str) -> None:
    round_and_round = bench.around().recipe_dir / "round"
    if not round_and_round.is_symlink():
        round_and_round.symlink_to("round")
    augmenter = Augmenter.parse({"kind": "image_noise", **settings})
    with pytest.raises(LuthierError, match=what) as caught:
        augmenter.write([replace_image(bench, value)], bench.around())
    assert caught.value.where.line is not None


def test_real_pictures_of_clothes(tmp_path: Path, real: Callable[[Path], Path]) -> None:
    folder = real(FASHION)
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    own = [
        {"message": f"What is picture {n}?", "category": line["class"], "customer": "", "image": line["image"]}
        for n, line in enumerate(lines[:120])
    ]
    bench = Bench(tmp_path, own)
    shutil.copytree(folder / "images", tmp_path / "pictures" / "images")
    made = bench.augment([{"kind": "image_noise", "folder": "pictures"}], share=0.3)
    for meta in made.added()["meta"]:
        assert _pixels(json.loads(meta)["image"]).shape[:2] == (28, 28)
    assert made.added().height > 20
    assert isinstance(made.frame("train"), pl.DataFrame)


@pytest.fixture
def real() -> Callable[[Path], Path]:
    def found(path: Path) -> Path:
        if not path.is_dir():
            pytest.skip(f"the real data set {path.name} is not beside the repository (shared/data/{path.name})")
        return path

    return found
