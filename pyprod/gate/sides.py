"""The names of what is compared."""

BASE, HEAD = "base", "head"
SIDES = (BASE, HEAD)
