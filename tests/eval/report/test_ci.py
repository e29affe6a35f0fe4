"""The gates' rules for CI systems: JUnit read by another's parser, annotations after GitHub's escaping."""

from __future__ import annotations

import re

import junitparser
import pytest

from luthier.core.errors import SourceLocation
from luthier.eval.report.ci import render_github_annotations, render_junit_xml
from luthier.eval.report.facts.report import GateFacts, ReportFacts, RuleFacts
from tests.eval.report import example


def _facts(*rules: tuple[str, str, str]) -> ReportFacts:
    told = tuple(
        RuleFacts.model_validate({"rule": rule, "verdict": verdict, "why": why}) for rule, verdict, why in rules
    )
    return ReportFacts(title="support", created="", gates=(GateFacts(name="gate", verdict="FAIL", rules=told),))


THREE = _facts(
    ("accuracy > base", "PASS", "0.9 against 0.5"),
    ("macro_f1 >= 80%", "FAIL", "0.6 (95 % interval 0.5 to 0.7)"),
    ("mcc > tfidf", "INCONCLUSIVE", "about 400 more rows would decide"),
)


def _suites(text: str) -> list[junitparser.TestSuite]:
    return list(junitparser.JUnitXml.fromstring(text.encode()))


def test_junit_is_what_another_parser_reads() -> None:
    (suite,) = _suites(render_junit_xml(THREE))
    assert (suite.name, suite.tests, suite.failures, suite.errors) == ("gate", 3, 1, 1)
    cases = {case.name: case for case in suite}
    assert cases["accuracy > base"].is_passed
    (failed,) = cases["macro_f1 >= 80%"].result
    assert isinstance(failed, junitparser.Failure)
    assert failed.message == "0.6 (95 % interval 0.5 to 0.7)"
    (unsure,) = cases["mcc > tfidf"].result
    assert isinstance(unsure, junitparser.Error)
    assert unsure.type == "INCONCLUSIVE"
    assert not cases["mcc > tfidf"].is_passed


def test_counts_agree_with_a_parser_that_counts_again() -> None:
    text = render_junit_xml(example.facts())
    parsed = junitparser.JUnitXml.fromstring(text.encode())
    told = [(suite.tests, suite.failures, suite.errors) for suite in parsed]
    for suite in parsed:
        suite.update_statistics()
    assert [(suite.tests, suite.failures, suite.errors) for suite in parsed] == told


@pytest.mark.parametrize("hostile", ["<b>&amp;\"'", "]]>", "nul \x00 and \x1b[31m", "\ud800 alone", "naïve 测试 🎻"])
def test_any_text_makes_whole_xml(hostile: str) -> None:
    (suite,) = _suites(render_junit_xml(_facts((f"accuracy > {hostile}", "FAIL", hostile))))
    (case,) = suite
    kept = re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff]", "\ufffd", hostile)
    assert case.name == f"accuracy > {kept}"
    assert case.result[0].text == kept


def test_junit_of_no_gates_has_no_suites() -> None:
    assert (
        list(junitparser.JUnitXml.fromstring(render_junit_xml(ReportFacts(title="empty", created="")).encode())) == []
    )


def test_annotations_stand_at_the_rules_lines() -> None:
    places = {
        ("gate", 0): SourceLocation(file="recipe.yaml", line=12),
        ("gate", 1): SourceLocation(file="a,b:c.yaml", line=13),
    }
    lines = render_github_annotations(THREE, places).splitlines()
    assert lines[0] == "::notice file=recipe.yaml,line=12,title=gate PASS%3A accuracy > base::0.9 against 0.5"
    assert lines[1].startswith("::error file=a%2Cb%3Ac.yaml,line=13,title=gate FAIL%3A macro_f1 >= 80%25::0.6 (95 %25")
    assert lines[2].startswith("::warning title=gate INCONCLUSIVE%3A")


def test_an_annotation_is_one_line_whatever_it_says() -> None:
    told = render_github_annotations(_facts(("a > b", "FAIL", "one\n::error::two\r\n100%")), {})
    assert told == "::error title=gate FAIL%3A a > b::one%0A::error::two%0D%0A100%25\n"
