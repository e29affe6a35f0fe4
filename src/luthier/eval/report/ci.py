"""The gates' rules as CI systems read them: JUnit XML, and annotations of GitHub Actions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from xml.etree import ElementTree as Tree

from luthier.core.errors import SourceLocation
from luthier.eval.report.facts.report import ReportFacts, RuleFacts

_LEVELS = {"PASS": "notice", "FAIL": "error", "INCONCLUSIVE": "warning"}
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot hold, escaped or not (section 2.2)."""


def render_junit_xml(facts: ReportFacts) -> str:
    """A test suite for each gate and a test case for each rule, in JUnit's XML.

    A rule that failed is a `failure`. One that is inconclusive is an `error` of type `INCONCLUSIVE`: it was not
    decided, and must not count as passed.
    """
    root = Tree.Element("testsuites", name=_xml(facts.title))
    for gate in facts.gates:
        verdicts = [rule.verdict for rule in gate.rules]
        counts = {"tests": len(verdicts), "failures": verdicts.count("FAIL"), "errors": verdicts.count("INCONCLUSIVE")}
        attributes = {"name": _xml(gate.name), **{name: str(count) for name, count in counts.items()}}
        suite = Tree.SubElement(root, "testsuite", attributes)
        for rule in gate.rules:
            _case(suite, f"{facts.title}.{gate.name}", rule)
    Tree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + Tree.tostring(root, encoding="unicode") + "\n"


def render_github_annotations(facts: ReportFacts, locations: Mapping[tuple[str, int], SourceLocation]) -> str:
    """Render a GitHub Actions annotation (workflow command) for each gate rule, at its line of the recipe.

    `locations` says by gate and the rule's number where each rule was written.
    """
    lines = []
    for gate in facts.gates:
        for number, rule in enumerate(gate.rules):
            location = locations.get((gate.name, number), SourceLocation())
            known = {"file": location.file, "line": location.line, "title": f"{gate.name} {rule.verdict}: {rule.rule}"}
            settings = ",".join(f"{name}={_property(str(value))}" for name, value in known.items() if value is not None)
            lines.append(f"::{_LEVELS[rule.verdict]} {settings}::{_data(rule.why)}\n")
    return "".join(lines)


def _case(suite: Tree.Element, group: str, rule: RuleFacts) -> None:
    case = Tree.SubElement(suite, "testcase", classname=_xml(group), name=_xml(rule.rule))
    if rule.verdict == "PASS":
        Tree.SubElement(case, "system-out").text = _xml(rule.why)
        return
    tag = "failure" if rule.verdict == "FAIL" else "error"
    Tree.SubElement(case, tag, type=rule.verdict, message=_xml(rule.why)).text = _xml(rule.why)


def _xml(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)


def _data(text: str) -> str:
    """A workflow command's message: percent signs and line ends are escaped."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """A workflow command's property, which ends at a comma or colon as well."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")
