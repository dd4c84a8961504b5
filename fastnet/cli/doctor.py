"""Say what fastnet found on this machine and chose, and test itself for two seconds."""

from __future__ import annotations

import argparse

HELP = "what was found on this machine and chosen, and a self-test"
EXAMPLES = """\
examples:
  fastnet doctor
  fastnet doctor --json > machine.json     for a bug report
  OMP_NUM_THREADS=1 fastnet doctor         what does a setting change?

exit code: 0 when the self-test passed, else 1
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(args: argparse.Namespace) -> int:
    from ..diagnostics import doctor

    if args.json:
        import json

        report = doctor(lambda line: None)
        print(json.dumps(report, indent=2))
    else:
        report = doctor()
    return 0 if report["ok"] else 1
