"""Type-check the package as installed (not editable: checkers do not follow import hooks) and the tests against it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder) / "site"
        build = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target",
                 str(site), str(ROOT)]
        subprocess.run(build, check=True)
        mypy = [sys.executable, "-m", "mypy", "--strict", "--config-file", str(ROOT / "pyproject.toml"), "--cache-dir",
                str(ROOT / ".mypy_cache")]
        environment = {**os.environ, "MYPYPATH": str(site)}
        package = subprocess.run([*mypy, "-p", "tilesim"], cwd=folder, env=environment).returncode
        tests = subprocess.run([*mypy, "--explicit-package-bases", str(ROOT / "tests")], cwd=folder, env=environment).returncode
    return package or tests


if __name__ == "__main__":
    sys.exit(main())
