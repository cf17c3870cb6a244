"""Recipes: optimized forms of a workload's model, by name. A Candidate's `recipe` is such a name; "base" is none.

A recipe file (`pyprod.recipes.file`) says by which steps each is made; `make` runs them, each once: what a step gave is
kept by the content of all that it depends on. `load` gives the model to whoever lowers it.
"""

from pyprod.recipes.file import RecipeFile, Step, read
from pyprod.recipes.run import check, digest_of, load, make, quantspec_of

__all__ = ["RecipeFile", "Step", "check", "digest_of", "load", "make", "quantspec_of", "read"]
