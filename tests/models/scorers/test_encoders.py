"""Scorers that read a model, on tiny models made here, against transformers and bert-score."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.core.context import RunContext
from luthier.core.errors import ModelError
from luthier.core.scorer import Column, Scorer, ScorerRow
from luthier.models.scorers.bertscore import BertScoreScorer
from luthier.models.scorers.faithfulness import EntailmentScorer
from luthier.models.scorers.fluency import FluencyScorer
from luthier.models.scorers.relevance import RelevanceScorer
from tests.tiny_models import tiny_encoder, tiny_model, tiny_tokenizer

TEXTS = ["my card was refused", "The weather is fine today, is it not?", "refused", "x", "where is my money"]
ROWS = [
    ScorerRow(question=f"what about {text}", prediction=text, references=(TEXTS[place - 1], text.upper()))
    for place, text in enumerate(TEXTS)
]


def desk(folder: Path) -> RunContext:
    return RunContext(recipe_dir=folder, kept=folder, models=Path)


def check_alone(scorer: Scorer, folder: Path, found: dict[str, Column]) -> None:
    """A row's number does not depend on the rows beside it."""
    for place, row in enumerate(ROWS):
        alone = scorer.columns([row], desk(folder))
        assert alone == {name: [pytest.approx(column[place], abs=1e-5)] for name, column in found.items()}


def test_fluency_is_transformers_likelihood(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tiny_model(tmp_path / "model")
    scorer = FluencyScorer(model=str(folder))
    found = scorer.columns(ROWS, desk(tmp_path))
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).float()
    for place, text in enumerate(TEXTS):
        ids = torch.tensor([[1, *tokenizer.encode(text, add_special_tokens=False)]])
        with torch.no_grad():
            loss = model(ids, labels=ids).loss
        assert found["fluency_tokens"][place] == ids.shape[1] - 1
        assert found["fluency_logprob"][place] == pytest.approx(-float(loss) * (ids.shape[1] - 1), abs=1e-3)
    check_alone(scorer, tmp_path, found)
    empty = scorer.columns([ScorerRow(prediction="", references=("a",))], desk(tmp_path))
    assert empty == {"fluency_logprob": [None], "fluency_tokens": [None]}


def _plain_f1(folder: Path, said: str, real: str, layer: int) -> float:
    """BERTScore written out: greedy matching of unit states, the ends' tokens matched but not counted."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).float().eval()
    states = []
    for text in (said, real):
        with torch.no_grad():
            told = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states[layer][0]
        states.append(told / told.norm(dim=-1, keepdim=True))
    best = [[max(float(a @ b) for b in states[1 - side]) for a in states[side]] for side in (0, 1)]
    precision, recall = (sum(one) / len(one) for one in best)
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("layer", [None, 1])
def test_bertscore_by_its_definition(layer: int | None, tmp_path: Path) -> None:
    folder = tiny_encoder(tmp_path / "encoder", pooling=None)
    scorer = BertScoreScorer(model=str(folder), layer=layer)
    found = scorer.columns(ROWS, desk(tmp_path))
    for row, score in zip(ROWS, found["bertscore"], strict=True):
        wanted = max(_plain_f1(folder, row.prediction, text, -1 if layer is None else layer) for text in row.references)
        assert score == pytest.approx(wanted, abs=1e-5)
    check_alone(scorer, tmp_path, found)
    same = scorer.columns([ScorerRow(prediction="as it is", references=("as it is",))], desk(tmp_path))
    assert same["bertscore"] == [pytest.approx(1, abs=1e-5)]
    assert scorer.columns([ScorerRow(prediction="", references=("a",))], desk(tmp_path))["bertscore"] == [0.0]


def tiny_bert(folder: Path) -> Path:
    """A random BERT whose tokenizer puts `[CLS]` and `[SEP]` around a text."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = sorted({word for text in TEXTS for word in text.lower().replace(",", " ").replace("?", " ").split()})
    vocabulary = {word: place for place, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])}
    base = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    base.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    base.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    folder.mkdir()
    BertTokenizerFast(tokenizer_object=base, model_max_length=64).save_pretrained(folder)
    torch.manual_seed(1)
    config = BertConfig(vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=3,
                        num_attention_heads=4, max_position_embeddings=64)  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.mark.filterwarnings("ignore")
def test_bertscore_is_bert_scores(tmp_path: Path) -> None:
    bert_score = pytest.importorskip("bert_score", reason="bert-score is not installed")
    folder = tiny_bert(tmp_path / "bert")
    said, real = [row.prediction.lower() for row in ROWS], [row.references[0].lower() for row in ROWS]
    wanted = bert_score.score(said, real, model_type=str(folder), num_layers=3, batch_size=1)[2].tolist()
    rows = [ScorerRow(prediction=one, references=(other,)) for one, other in zip(said, real, strict=True)]
    assert BertScoreScorer(model=str(folder)).columns(rows, desk(tmp_path))["bertscore"] == pytest.approx(
        wanted, abs=1e-5
    )


def tiny_classifier(folder: Path, labels: list[str]) -> Path:
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    folder.mkdir()
    tiny_tokenizer(folder)
    torch.manual_seed(2)
    config = BertConfig(vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                        num_attention_heads=4, max_position_embeddings=128, id2label=dict(enumerate(labels)),
                        label2id={name: place for place, name in enumerate(labels)})  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_faithfulness_is_the_share_of_entailment(tmp_path: Path) -> None:
    import torch
    from transformers import AutoTokenizer, BertForSequenceClassification

    folder = tiny_classifier(tmp_path / "nli", ["contradiction", "neutral", "ENTAILMENT"])
    scorer = EntailmentScorer(model=str(folder))
    found = scorer.columns(ROWS, desk(tmp_path))
    tokenizer, model = AutoTokenizer.from_pretrained(folder), BertForSequenceClassification.from_pretrained(folder)
    for row, score in zip(ROWS, found["faithfulness"], strict=True):
        with torch.no_grad():
            logits = model.eval()(**tokenizer(row.question, row.prediction, return_tensors="pt")).logits[0]
        assert score == pytest.approx(float(logits.softmax(-1)[2]), abs=1e-5)
    check_alone(scorer, tmp_path, found)
    by_reference = EntailmentScorer(model=str(folder), premise="reference").columns(ROWS, desk(tmp_path))
    assert by_reference != found
    with pytest.raises(ModelError, match="entail"):
        EntailmentScorer(model=str(tiny_classifier(tmp_path / "no", ["a", "b"]))).columns(ROWS, desk(tmp_path))


def test_relevance_knows_which_answer_is_about_the_question(tmp_path: Path) -> None:
    asked = ["how do I reset my password", "where is the nearest branch", "why was my card refused"] * 6
    told = [f"{question}: this is how" for question in asked]
    rows = [ScorerRow(question=one, prediction=other, references=("",)) for one, other in zip(asked, told, strict=True)]
    turned = [ScorerRow(question=one, prediction=other, references=("",))
              for one, other in zip(asked, [*told[1:], told[0]], strict=True)]  # fmt: skip
    near, far = (RelevanceScorer().columns(some, desk(tmp_path))["relevance"] for some in (rows, turned))
    assert min(score for score in near if score is not None) > max(score for score in far if score is not None)
    assert RelevanceScorer().columns([*rows, ScorerRow(question="", prediction="", references=("",))], desk(tmp_path))[
        "relevance"
    ][-1] is None  # fmt: skip
