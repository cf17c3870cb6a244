"""``python -m pyprod`` is the command ``pyprod``."""

from pyprod.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
