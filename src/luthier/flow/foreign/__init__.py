"""Recipes from the YAML files of other tuners: axolotl, TRL and LLaMA-Factory."""
