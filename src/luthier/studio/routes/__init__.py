"""The studio's pages, a module for each part of them."""
