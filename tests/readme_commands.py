"""Print a command of the README, "demo" or "test": the code block behind <!-- command:KIND -->."""

import re
import sys


def command(text: str, kind: str) -> str:
    found = re.search(rf"<!-- command:{kind} -->\s*```\w*\n(.*?)```", text, re.S)
    if not found:
        raise SystemExit(f"the README has no block marked command:{kind}")
    return found.group(1)


if __name__ == "__main__":
    path, kind = sys.argv[1:]
    with open(path, encoding="utf-8") as file:
        print(command(file.read(), kind), end="")
