"""Run every console block of the README and hold its output against what stands there; ``--update`` writes the real output in.

A block begins with ```console; lines that start with ``$ `` are commands, the lines behind them their output. Lines of output
that are exactly ``…`` stand for any number of lines.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run_command(command: str) -> str:
    """What *command* prints on stdout (the venv's own tilesim, a terminal of 150 columns)."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "150"}
    done = subprocess.run(["bash", "-c", command], cwd=README.parent, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command}\nexited with {done.returncode}:\n{done.stderr}")
    return "\n".join(line.rstrip() for line in done.stdout.splitlines())


def steps(block: str) -> list[tuple[str, str]]:
    """(command, shown output) of a block."""
    found: list[tuple[str, list[str]]] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line.rstrip())
    return [(command, "\n".join(lines)) for command, lines in found]


def matches(shown: str, real: str) -> bool:
    """Whether *real* is what *shown* says, a line ``…`` standing for any lines."""
    pattern = r"(?:.*\n)*?".join(re.escape(part) for part in re.split(r"^…\n", shown + "\n", flags=re.MULTILINE))
    return re.fullmatch(pattern, real + "\n") is not None


def main() -> int:
    text = README.read_text(encoding="utf-8")
    update = "--update" in sys.argv
    wrong = []

    def replace(match: re.Match[str]) -> str:
        lines = []
        for command, shown in steps(match.group(1)):
            real = run_command(command)
            same = matches(shown, real)
            if not same:
                wrong.append(command)
            lines.append(f"$ {command}\n" + ((shown if same else real) + "\n" if (shown if same else real) else ""))
        return "```console\n" + "".join(lines) + "```"

    new = BLOCK.sub(replace, text)
    if update:
        README.write_text(new, encoding="utf-8")
        return 0
    for command in wrong:
        print(f"README.md shows other output than '{command}' prints", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
