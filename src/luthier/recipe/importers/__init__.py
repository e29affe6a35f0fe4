"""Importers of recipes from the YAML files of axolotl, TRL and LLaMA-Factory."""
