"""The report of a run: one HTML page that opens offline, and the same as Markdown and JSON.

A report is a view, not an artifact: `collect` reads artifacts into `ReportFacts`; `page.render`, `page.as_json` and
`plain.markdown` are pure functions of them.
"""
