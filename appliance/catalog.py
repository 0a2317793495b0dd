"""Which models this service offers: names, files, and which of them a request means."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from appliance.config import Config
from appliance.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model to serve: the name clients use and the file it is loaded from."""

    name: str
    path: Path


def entries(config: Config) -> tuple[ModelEntry, ...]:
    """The models named in the configuration, in order. Raises ConfigError when two have the same name."""
    found: list[ModelEntry] = []
    for number, text in enumerate(config.model):
        path = Path(text).expanduser()
        name = config.alias[number] if number < len(config.alias) else path.name.removesuffix(".gguf")
        if any(entry.name == name for entry in found):
            raise ConfigError(f"Two models are called {name!r}.", param="alias", remedy="Give each its own --alias.")
        found.append(ModelEntry(name, path))
    return tuple(found)
