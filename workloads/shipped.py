"""Models by name or by file."""

from __future__ import annotations

from pathlib import Path

from ..sim.errors import ConfigError
from ..sim.yaml_reader import find_named
from .huggingface import read_model
from .model import MODELS_FOLDER, ModelConfig


def shipped_models() -> dict[str, Path]:
    """Name → file of the models that come with the package."""
    return {path.stem: path for path in sorted(MODELS_FOLDER.glob("*.json"))}


def load_model(model: str | Path | ModelConfig) -> ModelConfig:
    """The model that *model* means: a value as it is, a shipped name (``llama-3.2-1b``), or a path to a ``config.json``."""
    if isinstance(model, ModelConfig):
        return model
    path = Path(model)
    if isinstance(model, Path) or (model not in shipped_models() and path.is_dir()):
        if path.is_dir():
            inside = path / "config.json"
            raise ConfigError("is a directory; a model file is wanted", file=str(path), key="model", value=str(model),
                              mend=f"write {inside}" if inside.is_file() else None)
        return read_model(path)
    found = find_named(model, [MODELS_FOLDER], "model")
    if found.suffix in (".yaml", ".yml"):
        raise ConfigError("is a network of layers, which has no prefill or decode", file=str(found), key="model", value=str(model),
                          mend="run it without a phase (in Python: tilesim.inference)")
    return read_model(found)
