"""Ways to spoil a model's folder."""

import json
from pathlib import Path


def change(path: Path, *keys: str, value: object) -> None:
    """Sets what lies at these keys of a JSON file."""
    content = json.loads(path.read_text())
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(content))


def truncate(folder: Path) -> None:
    """Cuts the weights short."""
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
