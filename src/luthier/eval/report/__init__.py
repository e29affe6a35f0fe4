"""The report of a run: one HTML page that opens offline, and the same as Markdown and JSON.

A report is a view, not an artifact: `collect` reads artifacts into `ReportFacts`, and `render`, `markdown` and
`as_json` are pure functions of them.
"""

from luthier.eval.report.collect import collect
from luthier.eval.report.facts import ReportFacts
from luthier.eval.report.page import as_json, render
from luthier.eval.report.plain import markdown

__all__ = ["ReportFacts", "as_json", "collect", "markdown", "render"]
