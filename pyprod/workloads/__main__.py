"""``python -m pyprod.workloads fetch [NAME...]``: fill the cache."""

from __future__ import annotations

import argparse
import sys

from pyprod import discover, workloads
from pyprod.types import PyprodError
from pyprod.workloads import _assets


def main() -> int:
    """Fetch what the named workloads need (all, when none is named); exit code 0, or 2 with one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m pyprod.workloads", description=__doc__)
    parser.add_argument("verb", choices=("fetch",))
    parser.add_argument("names", nargs="*", metavar="NAME")
    options = parser.parse_args()
    try:
        for name in options.names or discover.names(workloads.__name__):
            for asset in discover.load(workloads.__name__, name).ASSETS:
                print(_assets.fetch(asset))
    except PyprodError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
