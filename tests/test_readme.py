"""The README shows what really happens: each console block is run and held against its shown output; the Python example runs."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_console_blocks_show_real_output() -> None:
    done = subprocess.run([sys.executable, str(ROOT / ".ci" / "readme.py")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_python_example_runs() -> None:
    code = "".join(re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL))
    assert "simulate" in code
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_yaml_examples_load(tmp_path: Path) -> None:
    """A chip has a name; what has none says how products are mapped."""
    from tilesim.arch.machine import load_machine
    from tilesim.mapping.constraints import load_constraints

    blocks = re.findall(r"^```yaml\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    chips = [text for text in blocks if re.search(r"^name: ", text, re.MULTILINE)]
    assert chips
    for text in chips:
        (tmp_path / "chip.yaml").write_text(text)
        assert f"name: {load_machine(str(tmp_path / 'chip.yaml')).name}\n" in text
    for text in blocks:
        if text not in chips:
            (tmp_path / "mapping.yaml").write_text(text)
            assert load_constraints(tmp_path / "mapping.yaml").operators
