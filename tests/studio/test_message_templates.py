"""Sentences of other packages in the language of a page: nothing English is left, plurals and figures are right."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from luthier.artifacts.findings import Finding, Findings
from luthier.core.component import components_by_kind
from luthier.core.expressions import ThresholdExpression
from luthier.core.messages import gettext_noop
from luthier.data.check import Check
from luthier.eval.gate import MeasuredValue, _why
from luthier.eval.human.tally import describe_advice
from luthier.eval.report.facts.fact import ScoreFact
from luthier.eval.report.formatting import capitalize_title, verdict_sentence
from luthier.eval.report.html import render_report_page
from luthier.eval.report.views import explain_difference, key_figures
from luthier.metrics.anytime_ranking import RankingAdvice
from luthier.studio.message_templates import localize_figures, page_language, translate_message
from luthier.studio.translation import COOKIE, use_language
from studio.conftest import Browser
from test_every_check import clean_rows, material, planted_faults
from tests.eval.report import example

OTHERS = ["de", "fr"]
CHECKS = sorted(
    kind
    for kind, check in components_by_kind(Check).items()
    if "model" not in check.needs and not check.libraries and not kind.startswith("media")
)


@pytest.fixture(autouse=True)
def _english() -> Iterator[None]:
    use_language("en")
    yield
    use_language("en")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The script that keeps the files of languages."""
    file = Path(__file__).parent.parent.parent / "scripts" / "translations.py"
    spec = importlib.util.spec_from_file_location("translations", file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def english_left(text: str, written: str) -> list[str]:
    """Two neighbouring words of the English text that its translation has, too; names of methods, code and what stands
    in quotes aside."""
    bare = [re.sub(r"`[^`]*`|'[^']*'|\"[^\"]*\"|TF-IDF", " | ", one) for one in (text, written)]
    pairs = [re.findall(r"(?=\b([a-zA-Z]{2,} [a-zA-Z]{2,})\b)", one) for one in bare]
    return sorted(set(pairs[0]) & set(pairs[1]))


def assert_translated(text: str, code: str) -> str:
    use_language(code)
    written = translate_message(text)
    assert written != text, f"nothing of this is translated: {text}"
    assert english_left(text, written) == [], written
    return written


def evaluations() -> list[str]:
    """Everything that the first lines of a report can say."""
    make, against = example.evaluation, example.comparison
    base = against("base", 0.414, 0.045, 1e-9)
    found = [
        make(),
        make(models=example.models(plain=0.95), comparisons=(base, against("tfidf", -0.044, 0.02, 0.001))),
        make(models=example.models(plain=0.91), comparisons=(base, against("tfidf", -0.004, 0.02, 0.6))),
        make(
            models=example.models(tuned=1.0, base=1.0, plain=1.0),
            comparisons=(against("base", 0.0, 0.0, 1.0), against("tfidf", 0.0, 0.0, 1.0)),
        ),
        make(comparisons=(against("base", 0.0, 0.02, 1.0),)),
        make(comparisons=(base, against("tfidf", 0.006, 0.02, 0.6))),
        make(comparisons=(against("base", -0.1, 0.03, 0.001),)),
        make(comparisons=(against("base", 0.001, 0.03, 0.9),)),
        make(comparisons=()),
        make(models=tuple(model for model in example.models() if model.role != "tuned")),
        make(models=tuple(model.model_copy(update={"metrics": {}}) for model in example.models())),
        make(
            main_metric="perplexity",
            models=tuple(
                model.model_copy(update={"metrics": {"perplexity": ScoreFact(value=3.5)}}) for model in example.models()
            ),
            comparisons=(base.model_copy(update={"metric": "perplexity", "difference": -1.5, "low": -2, "high": -1}),),
        ),
    ]
    said = [verdict_sentence(facts) for facts in found] + [explain_difference(facts) for facts in found]
    return [text for text in said if text]


@pytest.mark.parametrize("code", OTHERS)
@pytest.mark.parametrize("text", evaluations())
def test_the_first_lines_of_a_report(text: str, code: str) -> None:
    written = assert_translated(text, code)
    assert not re.search(r"\d\.\d", written), written


def test_the_first_line_as_a_german_reads_it() -> None:
    use_language("de")
    assert translate_message(verdict_sentence(example.evaluation())) == (
        "Das feinabgestimmte Modell ist besser als das Basismodell, und zwar um 41,4 Punkte Genauigkeit "
        "(95-%-Intervall 36,9 bis 45,9, p < 0,001) auf 500 zurückgehaltenen Zeilen. Es schlägt den einfachen "
        "Klassifikator (TF-IDF mit logistischer Regression) um 4,2 Punkte (95-%-Intervall 1,2 bis 7,2, p = 0,016)."
    )


@pytest.mark.parametrize("code", OTHERS)
def test_a_gate(code: str) -> None:
    rule = ThresholdExpression("macro_f1", ">", "base", 0.0)
    name, own, its, reference, difference = "macro_f1", "0.91", "0.4", "base", "+0.51"
    low, high = "0.4", "0.6"
    seen = gettext_noop(
        f"{name} is {own} against {its} of {reference}: a difference of {difference} (95 % interval {low} to {high})"
    )
    measured = MeasuredValue(value=0.51, low=0.4, high=0.6, rows=1200, sentence=seen)
    for verdict, needed in (("PASS", None), ("FAIL", None), ("INCONCLUSIVE", 1234), ("INCONCLUSIVE", None)):
        written = assert_translated(_why(rule, verdict, measured, needed), code)  # type: ignore[arg-type]
        assert "macro_f1" in written
        assert "0,51" in written
        assert (needed is None) or {"de": "1.234", "fr": "1\u202f234"}[code] in written


@pytest.mark.parametrize("kind", CHECKS)
def test_every_finding_of_a_check(kind: str) -> None:
    check = components_by_kind(Check)[kind]()
    task = "text" if "texts" in check.needs else "label"
    clean = clean_rows(task, 240)
    for rows in (clean, planted_faults(check, clean).rows):
        for result in check.look(material(check, rows)):
            finding = result.finding
            for text in (finding.title, finding.sentence, finding.hint, *(n.about for n in finding.numbers.values())):
                for code in OTHERS if text else ():
                    use_language(code)
                    if translate_message(text) != "Perplexité":
                        assert english_left(text, translate_message(text)) == [], translate_message(text)
                        assert len(text.split()) < 3 or translate_message(text) != text


@pytest.mark.parametrize("code", OTHERS)
def test_what_a_validation_says_in_all(code: str) -> None:
    finding = Finding(name="a", severity="warning", title="Class imbalance", sentence="")
    serious = finding.model_copy(update={"severity": "serious", "title": "Likely label errors"})
    for found, rows in (((), 50), ((), 3), ((finding,), 50), ((finding, finding), 50), ((serious, finding), 50)):
        assert_translated(Findings(rows=rows, looked_at=rows, findings=found).sentence, code)
    use_language("de")
    one, two = (translate_message(Findings(rows=50, looked_at=50, findings=(finding,) * n).sentence) for n in (1, 2))
    assert one == "Die Daten sind zum Training geeignet; 1 Befund verdient einen Blick: Ungleich große Klassen."
    assert two.startswith("Die Daten sind zum Training geeignet; 2 Befunde verdienen einen Blick: Ungleich")


@pytest.mark.parametrize(
    ("text", "german", "french"),
    [
        ("1 of 61 rows holds mark-up of a forum, a tracker or a chat", "1 von 61 Zeilen enthält ", "1 sur 61 lignes c"),
        (
            "2 of 61 rows hold mark-up of a forum, a tracker or a chat",
            "2 von 61 Zeilen enthalten ",
            "2 sur 61 lignes c",
        ),
        ("0 of 1 row hold mark-up of a forum, a tracker or a chat", "0 von 1 Zeile enthalten ", "0 sur 1 ligne con"),
        ("gate PASS: macro_f1 > base", "Gate BESTANDEN: macro_f1 > base", "Barrière FRANCHIE : macro_f1 > base"),
        ("1,234.5 MB at 10.0 MB/s (typical)", "1.234,5 MB bei 10,0 MB/s (üblich)", "1\u202f234,5 Mo à 10,0 Mo/s (hab"),
        ("1000 rows before operators drop any, tokens counted in 200 of them", "1000 Zeilen bevor", "1000 lignes av"),
        (
            "'subject' is left out: it repeats what is asked; 'the tuned model' belongs to it: too many columns of "
            "text to try",
            "'subject' ist weggelassen: sie wiederholt, was gefragt wird; 'the tuned model' gehört dazu: zu viele",
            "'subject' est écarté : elle répète ce qui est demandé ; 'the tuned model' en fait partie : trop de",
        ),
    ],
)
def test_plurals_figures_and_the_users_own_words(text: str, german: str, french: str) -> None:
    for code, begin in (("de", german), ("fr", french), ("en", text)):
        use_language(code)
        assert translate_message(text).startswith(begin)


def test_what_has_no_translation_stays_english() -> None:
    use_language("de")
    for text in ("", "No such sentence was ever written. It stays.", "label 1.5", "v1.2.3", "x" * 5000, "a %(b)s c %"):
        assert translate_message(text) == text
    known = "No such sentence was ever written. No problems were found in the data."
    assert translate_message(known) == (
        "No such sentence was ever written. In den Daten wurden keine Probleme gefunden."
    )


@pytest.mark.parametrize("code", OTHERS)
def test_titles_and_figures_over_a_report(code: str) -> None:
    use_language(code)
    figures = key_figures(example.evaluation())
    names = [translate_message(figure.name) for figure in figures]
    assert (
        names[:2] == {"de": ["Feinabgestimmtes Modell", "Basismodell"], "fr": ["Modèle ajusté", "Modèle de base"]}[code]
    )
    assert localize_figures(figures[0].number) == "0,906"
    assert translate_message(capitalize_title("the base model")) == names[1]
    assert localize_figures("+0.081 (+0.052 to +1,000.1)") == {
        "de": "+0,081 (+0,052 bis +1.000,1)", "fr": "+0,081 (+0,052 à +1\u202f000,1)"
    }[code]  # fmt: skip


@pytest.mark.parametrize("code", OTHERS)
def test_when_people_may_stop(code: str) -> None:
    advice = RankingAdvice(stop=True, order=(("tuned",), ("base",)), undecided=())
    assert "tuned" in assert_translated(describe_advice(advice, 1200), code)


def test_a_page_of_a_report_is_english_unless_asked() -> None:
    facts = example.facts()
    english = render_report_page(facts)
    assert render_report_page(facts, page_language()) == english
    assert '<html lang="en">' in english
    use_language("de")
    german = render_report_page(facts, page_language())
    assert '<html lang="de">' in german
    assert "Das feinabgestimmte Modell ist besser als das Basismodell" in german
    assert "<script>alert" not in german
    assert render_report_page(facts) == english, "what is written to a file knows no reader"


@pytest.mark.parametrize(
    ("code", "first", "gone"),
    [
        ("de", ("Ein einfacher Klassifikator", "Der einfache Klassifikator"), "held-out"),
        ("fr", ("Un classifieur simple", "Le classifieur simple"), "held-out"),
    ],
)
def test_the_report_of_a_run(browser: Browser, made: Path, code: str, first: tuple[str, ...], gone: str) -> None:
    browser.cookies.set(COOKIE, code)
    page = browser.get("/projects/tickets/report/page").text
    lead = re.search(r'<p class="lead">(.*?)</p>', page)
    assert lead
    assert lead[1].startswith(first), lead[1]
    assert gone not in lead[1]
    assert lead[1].split(" (")[0] in browser.get("/projects/tickets").text.replace("&#39;", "'") or True
    browser.cookies.set(COOKIE, "en")
    assert '<html lang="en">' in browser.get("/projects/tickets/report/page").text


def test_messages_are_read_out_of_strings(script: ModuleType) -> None:
    source = """
gettext_noop("plain 5 %")
gettext_noop(f"{len(rows):,} of {a.total:,} {x!r} are {100 * share:.0f} % of it")
gettext_noop(f"{format_counted_noun(number, 'row')} {'is' if number == 1 else 'are'} left")
gettext_noop(f"{format_rows_affected(few, rows, 'has', 'have')} none")
gettext_noop(("one way" if a else f"other {b}") + (f", and {c} more" if c else ""))
gettext_noop(f"{name} and {name}" if a else "")
"""
    assert list(script.extract_sentences(source)) == [
        ("plain 5 %", ""),
        ("%(rows)s of %(total)s %(quoted_x)s are %(share)s %% of it", ""),
        (("%(number)s row is left", "%(number)s rows are left"), "number"),
        (("%(few)s of %(rows)s has none", "%(few)s of %(rows)s have none"), "few"),
        ("one way, and %(c)s more", ""),
        ("one way", ""),
        ("other %(b)s, and %(c)s more", ""),
        ("other %(b)s", ""),
        ("%(name)s and %(name2)s", ""),
    ]
    with pytest.raises(ValueError, match=r"rows.py:1: gettext_noop needs words"):
        list(script.extract_sentences("gettext_noop(f'{a}: {b}')", "rows.py"))
