"""``python -m tests.contract``: hold the API against its contract for longer than the suite does, or write it down."""

import argparse
import os
import subprocess
import sys

KEPT = "tests/contract/test_contract.py::test_it_is_kept_as_it_is"


def main() -> int:
    reader = argparse.ArgumentParser(prog="python -m tests.contract", description=__doc__)
    reader.add_argument("--examples", type=int, default=100, help="how many for each operation and phase")
    reader.add_argument("--seed", type=int, default=20261121, help="another one asks for other things")
    reader.add_argument("--write", action="store_true", help="write docs/api/openapi.json and docs/api/postman.json")
    given = reader.parse_args()
    what = {"CONTRACT_EXAMPLES": str(given.examples), "CONTRACT_SEED": str(given.seed)}
    asked = "tests/contract/test_fuzzed.py"
    if given.write:
        what, asked = {"CONTRACT_WRITE": "1"}, KEPT
    return subprocess.call([sys.executable, "-m", "pytest", "-q", "-s", asked], env={**os.environ, **what})


if __name__ == "__main__":
    sys.exit(main())
