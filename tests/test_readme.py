"""The README shows what really happens: each console block is run and held against its shown output; the Python example runs."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _script() -> ModuleType:
    """The script that writes the console blocks, as a module."""
    spec = importlib.util.spec_from_file_location("readme", ROOT / ".ci" / "readme.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPT = _script()
STEPS = [step for block in SCRIPT.BLOCK.findall((ROOT / "README.md").read_text()) for step in SCRIPT.steps(block)]


@pytest.mark.parametrize(("command", "shown"), STEPS, ids=[command for command, _ in STEPS])
def test_console_blocks_show_real_output(command: str, shown: str) -> None:
    real = SCRIPT.run_command(command)
    assert SCRIPT.matches(shown, real), real


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
