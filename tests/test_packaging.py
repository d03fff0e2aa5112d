"""The wheel holds what the checkout holds, and works in a venv that has never seen the checkout."""

import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
#: The fresh venv must find the wheel by itself.
CLEAN = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


def test_listed_packages_are_those_on_disk() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    rooms = sorted(p.parent.name for p in ROOT.glob("*/__init__.py"))
    assert sorted(listed) == ["tilesim", *(f"tilesim.{room}" for room in rooms)]


def test_rooms_import_only_downhill() -> None:
    """The table of rooms: what stands below never imports what stands above."""
    import ast

    may_import = {
        "sim": {"sim"},
        "workloads": {"workloads", "sim", "configs"},
        "memory": {"memory", "sim", "configs"},
        "arch": {"arch", "sim", "memory", "configs"},
        "mapping": {"mapping", "sim", "workloads", "memory", "arch", "configs"},
        "validation": {"validation", "sim", "workloads", "memory", "arch", "mapping", "configs", "run", "explore"},
    }
    uphill = []
    for room, allowed in may_import.items():
        for path in (ROOT / room).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and node.level >= 2:
                    targets = [node.module.split(".")[0]] if node.module else [alias.name for alias in node.names]
                    uphill += [f"{room}/{path.name} imports {t}" for t in targets if t not in allowed and t != "__version__"]
    assert uphill == []


@pytest.fixture(scope="module")
def fresh_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A venv with the built wheel in it; its dependencies are those of the venv that runs the tests."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, check=True,
                           capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir",
                    str(folder), str(source)], check=True)
    wheel = next(folder.glob("tilesim-*.whl"))
    home = folder / "venv"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run(install, check=True)
    site = next(home.glob("lib/python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def test_console_script_and_module_answer_alike(fresh_python: Path, tmp_path: Path) -> None:
    said = [
        subprocess.run([*command, "list", "chips"], cwd=tmp_path, check=True, capture_output=True, env=CLEAN).stdout
        for command in ([str(fresh_python.parent / "tilesim")], [str(fresh_python), "-m", "tilesim"])
    ]
    assert said[0] == said[1]
    assert b"hbm-npu" in said[0]


def test_wheel_carries_its_data(fresh_python: Path, tmp_path: Path) -> None:
    """From the wheel, not from the checkout: every chip loads and every model lowers."""
    code = (
        "import tilesim, pathlib\n"
        "home = pathlib.Path(tilesim.__file__).parent\n"
        f"assert {str(ROOT)!r} not in str(home), home\n"
        "from tilesim.arch.machine import chip_folder, load_machine\n"
        "for path in sorted(chip_folder().glob('*.yaml')): load_machine(path.stem)\n"
        "for path in sorted((home / 'configs' / 'models').glob('*.json')): tilesim.decode(path.stem, context=16)\n"
        "assert (home / 'py.typed').exists()\n"
    )
    subprocess.run([str(fresh_python), "-c", code], cwd=tmp_path, check=True, env=CLEAN)


SPAWN = """
import multiprocessing, tilesim

def seconds(context):
    return tilesim.simulate("hbm-npu", tilesim.decode("gpt2", context=context)).seconds

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pooled = pool.map(seconds, [64, 128])
    assert pooled == [seconds(64), seconds(128)], pooled
"""


def test_spawned_processes_give_the_same_answer(tmp_path: Path) -> None:
    """From the checkout, whose kernels are compiled by now: a fresh installation would compile them in three processes at once."""
    script = tmp_path / "spawn.py"
    script.write_text(SPAWN)
    subprocess.run([sys.executable, str(script)], cwd=tmp_path, check=True)
