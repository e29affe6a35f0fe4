"""Fine-tune, evaluate and serve a language model from raw data with one recipe.

>>> import luthier
>>> recipe = luthier.Recipe.load("recipe.yaml")   # doctest: +SKIP
>>> recipe.plan()                                 # doctest: +SKIP
>>> result = recipe.run()                         # doctest: +SKIP
>>> luthier.advise("rows.csv", budget="30m")      # doctest: +SKIP
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["Recipe", "__version__", "advise"]

if TYPE_CHECKING:
    from luthier.commands.advise import advise
    from luthier.recipe.schema import Recipe


def __getattr__(name: str) -> object:
    """Import the public names on first use, so that `import luthier` stays light."""
    if name == "Recipe":
        from luthier.recipe.schema import Recipe

        return Recipe
    if name == "advise":
        from luthier.commands.advise import advise

        return advise
    raise AttributeError(f"module 'luthier' has no attribute {name!r}")
