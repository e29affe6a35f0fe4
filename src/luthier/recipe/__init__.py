"""Recipes: schema, planner, runner and workspace."""
