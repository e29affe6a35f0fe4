"""Pages of the web: who may be asked, how politely, what is kept, and what of a page is its text."""
