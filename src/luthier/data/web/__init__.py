"""Web pages as a source: robots.txt, polite crawling, and the text of a page."""
