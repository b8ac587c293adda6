"""What a benchmark ran on, and how it prints numbers."""

from pathlib import Path
from typing import Any


def cpu_model() -> str | None:
    """The processor's name, where the system tells it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else None


def rounded(value: Any) -> Any:
    """Every float in a tree of JSON to four digits."""
    if isinstance(value, dict):
        return {name: rounded(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return float(f"{value:.4g}") if type(value) is float else value
