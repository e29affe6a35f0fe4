"""The report of a run: one HTML page that opens offline, and the same as Markdown and JSON.

A report is a view, not an artifact. `collect` reads artifacts into `ReportFacts`; `html.render`, `html.as_json` and
`markdown.markdown` are pure functions of them.
"""
