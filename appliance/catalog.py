"""Which models there are, and which of them this service offers.

A model of the catalog is a folder with a manifest: under `models/` of the project (they come with the appliance) or
under `models/` of the data folder (added later). Of two with one name, the one in the data folder counts. A manifest that
cannot be read disables its own model and no other.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from appliance import integrity, manifest
from appliance.config import Config, data_dir
from appliance.errors import ApplianceError, ConfigError, ModelFileError, ModelNotFound
from appliance.manifest import FILE_NAME, Manifest
from appliance.storage import write_atomically

FIRST_DEFAULT = "starter"
"""The default until `use` names another, where it is in the catalog."""
DEFAULT_FILE = "default"
HASHES_FILE = "hashes.json"


@dataclass(frozen=True, slots=True)
class CatalogModel:
    """A model's folder. manifest: None when it cannot be read, then `reason` says why. shipped: came with the appliance."""

    name: str
    folder: Path
    shipped: bool
    manifest: Manifest | None = None
    reason: str = ""

    def readable(self) -> Manifest:
        """The manifest. Raises ModelFileError with the reason when there is none."""
        if self.manifest is None:
            raise ModelFileError(f"The model {self.name} cannot be used: {self.reason}", remedy="Correct its manifest, or remove the model and add it again.")
        return self.manifest

    @property
    def path(self) -> Path:
        """The file an engine opens; the folder where that is not known."""
        return self.folder / self.manifest.main.path if self.manifest else self.folder

    @property
    def names(self) -> tuple[str, ...]:
        """All names it is found under."""
        return (self.name, *(self.manifest.aliases if self.manifest else ()))


@dataclass(frozen=True, slots=True)
class Catalog:
    """A picture of the folders at one time. hidden: models whose name another one has. default: "" when none is chosen."""

    models: tuple[CatalogModel, ...] = ()
    hidden: tuple[CatalogModel, ...] = ()
    default: str = ""

    def find(self, name: str) -> CatalogModel:
        """The model of that name, or with that alias. Raises ModelNotFound with what was probably meant."""
        found = self.get(name)
        if found:
            return found
        names = [each for model in self.models for each in model.names]
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"Did you mean {close[0]}? " if close else ""
        raise ModelNotFound(f"The catalog has no model {name[:100]!r}.", param="model", remedy=f"{hint}`appliance models list` shows what there is.")

    def get(self, name: str) -> CatalogModel | None:
        """The model of that name, or with that alias, or None."""
        exact = [model for model in self.models if model.name == name]
        return next(iter(exact or [model for model in self.models if name in model.names]), None)


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model to serve: the name clients use, the file it is loaded from, and its place in the catalog, if it has one."""

    name: str
    path: Path
    model: CatalogModel | None = None


def shipped_folder() -> Path:
    """The models that come with the appliance: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "models"
    return inside if inside.is_dir() else package.parent / "models"


def added_folder(config: Config) -> Path:
    """Where added models lie; it may not exist yet."""
    return data_dir(config) / "models"


def hash_cache(config: Config) -> integrity.HashCache:
    """The remembered hashes of this data folder."""
    return integrity.HashCache(data_dir(config) / HASHES_FILE)


def read_catalog(config: Config) -> Catalog:
    """Everything in both folders, in the order of the names. Never raises: what cannot be read is in it with its reason."""
    added = added_folder(config)
    found = [*_models_in(added, shipped=False), *_models_in(shipped_folder(), shipped=True)]
    models: list[CatalogModel] = []
    hidden: list[CatalogModel] = []
    for name in sorted({model.name for model in found}):
        same = sorted((m for m in found if m.name == name), key=lambda m: (m.manifest is None, m.shipped))
        models.append(same[0])
        hidden += same[1:]
    return Catalog(tuple(models), tuple(hidden), _read_default(added, models))


def _models_in(folder: Path, *, shipped: bool) -> list[CatalogModel]:
    try:
        folders = [child for child in folder.iterdir() if child.is_dir() and not child.name.startswith(".")]
    except OSError:
        return []  # there is none, or it is not ours to read
    found = []
    for child in folders:
        try:
            if shipped and not (child / FILE_NAME).exists():
                continue  # the recipe of a model that has not been made
            paper = manifest.read(child / FILE_NAME)
            if paper.name != child.name:
                raise ModelFileError(f"{child / FILE_NAME}: name = {paper.name!r}, but the folder is called {child.name!r}.")
            found.append(CatalogModel(child.name, child, shipped, paper))
        except (ApplianceError, OSError) as error:
            found.append(CatalogModel(child.name, child, shipped, None, str(error)))
    return found


def _read_default(added: Path, models: list[CatalogModel]) -> str:
    try:
        chosen = (added / DEFAULT_FILE).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        chosen = ""
    return chosen or next((model.name for model in models if model.name == FIRST_DEFAULT), "")


def set_default(config: Config, name: str) -> None:
    """Make a model the one that `serve` loads when none is named; "" goes back to the first default. Raises OSError."""
    folder = added_folder(config)
    if name:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / DEFAULT_FILE, f"{name}\n".encode())
    else:
        (folder / DEFAULT_FILE).unlink(missing_ok=True)


def entries(config: Config) -> tuple[ModelEntry, ...]:
    """The models to serve, in order: those that `--model` names, each a path or a name of the catalog; else the default.

    A word without a slash that is in the catalog means that model, anything else a file. Raises ConfigError when two have
    the same name, ModelNotFound when the chosen default is gone. Files are not looked at: see `verify_before_load`.
    """
    names = [text for text in config.model if "/" not in text and not text.startswith("~")]
    catalog = read_catalog(config) if names or not config.model else Catalog()
    found: list[ModelEntry] = []
    wanted = config.model or ((catalog.find(catalog.default).name,) if catalog.default else ())
    for number, text in enumerate(wanted):
        model = catalog.get(text) if not config.model or text in names else None
        path = model.path if model else Path(text).expanduser()
        name = config.alias[number] if number < len(config.alias) else text if model else path.name.removesuffix(".gguf")
        if any(entry.name == name for entry in found):
            raise ConfigError(f"Two models are called {name!r}.", param="alias", remedy="Give each its own --alias.")
        found.append(ModelEntry(name, path, model))
    return tuple(found)


def check_servable(model: CatalogModel) -> None:
    """Return when an engine of this release can serve the model. Raises ModelFileError."""
    paper = model.readable()
    if paper.format != "gguf" or paper.task != "generate":
        raise ModelFileError(
            f"{model.name} is an {paper.format.upper()} model for the task {paper.task}; this release serves GGUF models that generate text.",
            remedy="Choose another: `appliance models list` shows what there is.",
        )


def verify_before_load(entry: ModelEntry, hashes: integrity.HashCache, stopping: Callable[[], bool] | None = None) -> None:
    """Return when the files of a catalog model are what its manifest says; a file given by its path has no manifest.

    Takes microseconds for files that did not change since they were last read, else about a second for each gigabyte: for
    the thread that starts the engine, not for one that serves requests. Raises ModelFileError, or Draining.
    """
    if entry.model is not None:
        integrity.check(entry.model.folder, entry.model.readable(), hashes, stopping=stopping)
