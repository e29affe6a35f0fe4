"""Pictures in explanations: patches of every family, what their removal computes, and planted evidence on a picture."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from explain.pictures import COLOURS, QUESTION, bright, teach_pictures
from luthier.artifacts.explanation import ExplanationRecord
from luthier.artifacts.explanation_picture import render_picture_heat
from luthier.artifacts.media import MediaWriter
from luthier.chat.media_regions import WHOLE, Region, find_visible_region, locate_features
from luthier.chat.messages import MEDIA_MARK, Example, ExampleOrigin, Media, Message
from luthier.commands.explain import explain
from luthier.core.artifact import Artifact
from luthier.core.errors import DataError
from luthier.core.store import Store
from luthier.eval.report.collect import explanation_facts
from luthier.eval.report.facts.report import ReportFacts
from luthier.eval.report.html import render_report_page
from luthier.explain.explainer import Explainer
from luthier.explain.heat_map import format_explanation, render_heat_map
from luthier.explain.masking import mask_explanation
from luthier.explain.patches import MOST, group_features
from luthier.explain.run import explain_question
from luthier.explain.steps.explain import Explain
from luthier.explain.subject import ExplanationRequest, SubjectBuilder
from luthier.metrics.files import parse_component_spec
from luthier.models.media.towers import find_towers
from luthier.models.sources.folder import FolderModelSource
from luthier.traces.redact import Redactor
from luthier.traces.retention import RetentionPolicy
from luthier.tune.steps.tune import Tune
from luthier.tune.techniques.lora import Lora
from models.making import make_base
from tuning import TuneEnv, _data, finish, made
from vision_models import FAMILIES, picture, shown, tiny_vision_model

PICTURE, CONTENT = picture(2, 64, 40)


def base_of(folder: Path, place: Path) -> Artifact:
    return make_base(Store(folder / "store"), FolderModelSource(path=str(place)), folder)


def subject_of(
    model: Artifact, media: Media = PICTURE, content: bytes = CONTENT, units: Any = "words", **more: Any
) -> Any:
    builder = SubjectBuilder(model, units=units, read_media={media.digest: content}.__getitem__)
    return builder.build(ExplanationRequest(messages=shown("what is this thing?", media), **more))


TILED = ("llava_next", "llava_onevision", "internvl")
"""Families whose tiles cannot be told from what the processor writes: their features lie in the whole picture."""


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in TILED])
def test_a_patch_is_removed_by_the_mean_of_its_pictures_features(tmp_path: Path, family: str) -> None:
    """The value without a patch is that of a model whose tower gives the mean in the patch's places."""
    subject = subject_of(base_of(tmp_path, tiny_vision_model(tmp_path / "m", family)))
    scorer = subject.prompt.scorer
    patches = [number for number, unit in enumerate(scorer.cut.units) if unit.patch is not None]
    features = [token for number in patches for token in scorer.cut.units[number].tokens]
    assert len(patches) >= 4
    assert sorted(features) == [at for at, token in enumerate(scorer.ids) if token >= 1 << 62]
    chosen = patches[1]
    places = [sorted(features).index(token) for token in scorer.cut.units[chosen].tokens]
    without = scorer.score([scorer.all_units - {chosen}])[0]
    towers: Any = find_towers(scorer.model)
    whole = towers.features(scorer.model, (scorer.ids[sorted(features)[0]] & (1 << 62) - 1) >> 15)
    assert scorer.full != pytest.approx(without, abs=1e-9)
    with torch.no_grad():
        for value in whole.tensors:  # those that the towers keep
            value[places] = value.mean(0)
    other = scorer.with_cut(scorer.cut)
    other._known = {}  # nothing that was read before
    assert other.score([other.all_units])[0] == pytest.approx(without, abs=1e-5)


def test_variants_are_forgotten(tmp_path: Path) -> None:
    subject = subject_of(base_of(tmp_path, tiny_vision_model(tmp_path / "m")))
    scorer = subject.prompt.scorer
    before = len(scorer._media._known)
    scorer.score([scorer.all_units - {unit} for unit in range(scorer.count)])
    assert len(scorer._media._known) == before
    assert len(scorer._media.export_known()) == before


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_add_up(tmp_path: Path, family: str) -> None:
    model = base_of(tmp_path, tiny_vision_model(tmp_path / "m", family))
    builder = SubjectBuilder(model, units="patches", read_media={PICTURE.digest: CONTENT}.__getitem__)
    question = ExplanationRequest(messages=shown("what is this thing?", PICTURE), answer="a parcel")
    methods = [
        parse_component_spec(Explainer, kind)
        for kind in ("integrated_gradients:steps=128", "attnlrp", "gradient_x_input")
    ]
    integrated, *others = explain_question(builder, question, methods, faithful=False)
    assert integrated.gap == pytest.approx(0, abs=0.02 * max(1, abs(integrated.value)))
    assert any(unit.score for unit in integrated.units if unit.patch is not None)
    for record in (integrated, *others):
        assert record.unit == "patches"
        assert not any("Vision" in note for note in record.notes)
        assert any("DeepStack" in note for note in record.notes) == family.startswith("qwen3_")


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("bright")
    return base_of(folder, teach_pictures(folder / "taught"))


def explain_bright(model: Artifact, place: int, colour: str, *methods: str, **more: Any) -> list[ExplanationRecord]:
    media, content = bright(5, place, colour)
    (other,) = {*COLOURS} - {colour}
    builder = SubjectBuilder(model, units=more.pop("units", "patches"), read_media={media.digest: content}.__getitem__)
    question = ExplanationRequest(messages=shown(QUESTION, media), answer=colour, against=other)
    return explain_question(
        builder, question, [parse_component_spec(Explainer, method) for method in methods], orders=19, **more
    )


@pytest.mark.parametrize(("place", "colour"), [(6, "red"), (11, "blue"), (0, "blue"), (13, "red")])
def test_the_bright_block_is_found_first(taught: Artifact, place: int, colour: str) -> None:
    found = explain_bright(taught, place, colour, "leave_one_out", "integrated_gradients")
    for record in found:
        assert record.value > 1
        scores = [unit.score for unit in record.units if unit.patch is not None]
        first, second = sorted(map(abs, scores), reverse=True)[:2]
        assert scores.index(max(scores)) == place
        assert first > 3 * second
    assert found[0].faithfulness is not None
    assert found[0].faithfulness.verdict == "better than random"
    assert found[0].faithfulness.rank_agreement == pytest.approx(1)


def test_shapley_values_of_patches_add_up(taught: Artifact) -> None:
    (record,) = explain_bright(taught, 6, "red", "shapley:orders=4")
    assert record.gap == pytest.approx(0, abs=1e-9)
    assert sum(unit.score for unit in record.units) == pytest.approx(record.value - record.without, abs=1e-6)


def test_words_stand_beside_patches_and_are_refined_alone(taught: Artifact) -> None:
    (record,) = explain_bright(taught, 6, "red", "leave_one_out", units="turns", refine="words")
    assert [unit.patch is None for unit in record.units] == [False] * 16 + [True]
    assert record.units[-1].text.strip() == QUESTION
    assert [unit.text for unit in record.units[:2]] == ["picture 1, row 1, column 1", "picture 1, row 1, column 2"]
    assert all(not unit.parts for unit in record.units[:-1])
    (fine,) = explain_bright(taught, 6, "red", "leave_one_out", units="words")
    assert [unit.text for unit in fine.units[16:]] == ["which ", "colour ", "is ", "the ", "block?"]


def test_the_heat_map_holds_the_picture_and_numbers(taught: Artifact) -> None:
    (record,) = explain_bright(taught, 6, "red", "leave_one_out")
    page = render_heat_map([record], "Why")
    assert page.count('<image href="data:image/jpeg;base64,') == 1
    assert not re.search(r"(?:src|href)=\"(?!data:)", page)
    numbers = sorted(int(number) for number in re.findall(r">(\d+)[+−]</text>", page))
    ranks = [record.ranked().index(unit) + 1 for unit in record.units if unit.patch is not None]
    assert numbers == sorted(ranks)
    assert page.count("stroke-dasharray") == sum(unit.score < 0 for unit in record.units if unit.patch is not None)
    assert any("picture 1, row 2, column 3" in line for line in format_explanation(record))
    hidden = mask_explanation(record, Redactor(RetentionPolicy()))
    assert "<image" not in render_picture_heat(hidden, 0)
    assert [unit.text for unit in hidden.units] == [unit.text for unit in record.units]


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> tuple[TuneEnv, Artifact]:
    """A data set with pictures, and the taught model tuned on it a little."""
    pictures = [bright(number, number, ("red", "blue")[number % 2]) for number in range(4)]
    store = Store(tmp_path_factory.mktemp("shop") / "store")

    def base(folder: Path) -> None:
        teach_pictures(folder)
        (folder / "model.json").write_text(json.dumps({"name": "tiny"}))

    def data(folder: Path) -> None:
        rows = []
        for number, (media, _) in enumerate(pictures):
            origin = ExampleOrigin(source="test", file="test.jsonl", line=number + 1)
            messages = shown(QUESTION, media, answer=("red", "blue")[number % 2])
            rows.append(Example(id=f"{number:016x}", origin=origin, kind="chat", messages=messages))
        _data(folder, {"train": rows[:2], "test": rows[2:]})
        with MediaWriter(folder) as writer:
            for media, content in pictures:
                writer.add(media, content)

    env = TuneEnv(store, made(store, "base", "model", base), made(store, "prepare", "dataset", data), [])
    step = Tune(data="data", technique=Lora(r=2), epochs=1, batch_size=4, learning_rate=1e-6, dtype="float32")
    return env, env.tune(step)


def test_a_row_of_the_data_is_explained(env: tuple[TuneEnv, Artifact], tmp_path: Path) -> None:
    _, model = env
    found = explain(model, row=f"{2:016x}", methods=("leave_one_out",), units="patches", orders=9, instead="blue")
    (record,) = found.records
    assert record.target.text == "red"
    scores = [unit.score for unit in record.units if unit.patch is not None]
    assert scores.index(max(scores)) == 2
    found.write(tmp_path / "heat.html")
    assert "data:image/jpeg" in (tmp_path / "heat.html").read_text()


def test_a_step_explains_pictures_and_the_report_draws_them(env: tuple[TuneEnv, Artifact]) -> None:
    env, model = env
    method = Explainer.parse("leave_one_out")
    step = Explain(data="data", methods=(method,), units="patches", limit=2, answers="reference", orders=9)
    work = replace(env.work(Tune(data="data", epochs=7)), inputs={"data": env.data, "model": model})
    step.make(work)
    artifact = finish(env.store, env.tune_digest(Tune(data="data", epochs=7)), "explain", "explanation", {})
    facts = explanation_facts("why", artifact)
    assert [len(row.record.pictures) for row in facts.rows] == [1, 1]
    assert all(unit.text.strip() == QUESTION for row in facts.rows for unit in row.units)
    page = render_report_page(ReportFacts(title="why", created="today", explanations=(facts,)))
    assert page.count('<image href="data:image/jpeg;base64,') == 2
    assert "img-src data:" in page


def test_what_cannot_be_explained_is_refused(taught: Artifact) -> None:
    media, _ = bright(5, 0, "red")
    sound = Media(kind="audio", digest="0" * 64, format="wav", size=1, seconds=1.0, rate=8000)
    read = {media.digest: b""}.__getitem__
    heard = (Message(role="user", content=f"{MEDIA_MARK} What is this?", media=(sound,)),)
    with pytest.raises(DataError, match="reads no sounds"):
        SubjectBuilder(taught, read_media=read).build(ExplanationRequest(messages=heard, answer="red"))
    with pytest.raises(DataError, match="pictures of this conversation are not here"):
        SubjectBuilder(taught).build(ExplanationRequest(messages=shown("what?", media), answer="red"))
    plain = ExplanationRequest(messages=(Message(role="user", content="which colour?"),), answer="red")
    with pytest.raises(DataError, match="no pictures to cut into patches"):
        SubjectBuilder(taught, units="patches").build(plain)


def test_regions_of_features() -> None:
    assert locate_features("IIII", "I", (0, 0, 0), WHOLE)[1] == Region(0.5, 0, 1, 0.5)
    assert len(set(locate_features("I" * 5, "I", (0, 0, 0), WHOLE))) == 1
    rows = locate_features("IIIBIIIBE", "I", (0, 0, 0), WHOLE)  # two rows of three, as Pixtral writes them
    assert rows[3] == Region(0, 0.5, 1 / 3, 1)
    crops = locate_features("II and II", "I", (0, 0, 0), WHOLE)
    assert set(crops) == {WHOLE}
    tiled = locate_features("<row_1_col_1>IIII<row_1_col_2>IIII<global>IIII", "I", (0, 0, 0), WHOLE)
    assert tiled[5] == Region(0.75, 0, 1, 0.5)
    assert tiled[8] == Region(0, 0, 0.5, 0.5)
    groups = group_features(tiled)
    assert sum(map(len, groups.values())) == 12
    assert len(groups) == 8
    many = group_features(WHOLE.cut(16, 24))
    assert len(many) == MOST * MOST
    assert max(map(len, many.values())) <= 3 * 4
    assert all(one < other for one, other in pairwise(many))


def test_a_processor_that_crops_sees_the_middle() -> None:
    class Cropping:
        do_center_crop, do_resize, size, crop_size = True, True, {"shortest_edge": 28}, {"height": 28, "width": 28}

    assert find_visible_region(Cropping(), 56, 28) == Region(0.25, 0, 0.75, 1)
    assert find_visible_region(object(), 56, 28) == WHOLE
