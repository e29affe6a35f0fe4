"""Sphinx settings: Markdown pages, furo theme, warnings are errors (see ./check)."""

from luthier import __version__

project = "Luthier"
author = "The Luthier authors"
copyright = "The Luthier authors"
release = __version__
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
html_theme = "furo"
html_title = "Luthier"
exclude_patterns = ["_build"]
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist"]
