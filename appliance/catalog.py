"""Which models there are, and which of them this service offers.

A model of the catalog is a folder with a manifest: under `models/` of the project (they come with the appliance) or
under `models/` of the data folder (added later). Of two with one name, the one in the data folder counts. A manifest that
cannot be read disables its own model and no other.
"""

from __future__ import annotations

import difflib
import os
import re
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from appliance import integrity, manifest
from appliance.config import Config, data_dir
from appliance.errors import ApplianceError, ConfigError, ModelFileError, ModelNotFound
from appliance.intake.facts import RANK_POOLING, read_facts
from appliance.manifest import FILE_NAME, Manifest
from appliance.storage import write_atomically

FIRST_DEFAULT = "starter"
"""The default until `use` names another, where it is in the catalog."""
DEFAULT_FILE = "default"
"""Names of the models that are served where none is named, one a line; the first is the default."""
HASHES_FILE = "hashes.json"
NOBODY = ("", "none")
ONNX_FILE = "model.onnx"
TWIN = "-onnx"
"""What the name of a model's ONNX form ends in."""
HEAD_BYTES = 1 << 16
"""What a GGUF file is for stands near its beginning."""


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
    """A picture of the folders at one time. hidden: models whose name another one has. default: "" when none is chosen. beside:
    what is served with the default."""

    models: tuple[CatalogModel, ...] = ()
    hidden: tuple[CatalogModel, ...] = ()
    default: str = ""
    beside: tuple[str, ...] = ()

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
    """A model to serve: the name clients use, the GGUF file or the ONNX folder it is loaded from, and its place in the
    catalog, if it has one. engine: "llama", "onnx", "fake", or "auto" where `twin`, the same model as ONNX, may be the
    faster. form_of: the GGUF file that was named, where its ONNX form is to be served."""

    name: str
    path: Path
    model: CatalogModel | None = None
    engine: str = "auto"
    twin: ModelEntry | None = None
    form_of: Path | None = None


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
    default, *beside = _read_served(added) or [next((model.name for model in models if model.name == FIRST_DEFAULT), "")]
    return Catalog(tuple(models), tuple(hidden), default, tuple(beside))


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


def _read_served(added: Path) -> list[str]:
    try:
        return list(dict.fromkeys(filter(None, map(str.strip, (added / DEFAULT_FILE).read_text("utf-8").splitlines()))))
    except (OSError, UnicodeDecodeError):
        return []


def set_default(config: Config, name: str) -> None:
    """Make a model the one that `serve` loads when none is named; "" goes back to the first default. What is served beside it stays.
    Raises OSError."""
    kept = [other for other in _read_served(added_folder(config))[1:] if other != name]
    set_served(config, [name, *kept] if name else [])


def set_served(config: Config, names: list[str]) -> None:
    """What `serve` loads when no model is named, the default first; with none it is the first default. Raises OSError."""
    folder = added_folder(config)
    if names:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / DEFAULT_FILE, "".join(f"{name}\n" for name in names).encode())
    else:
        (folder / DEFAULT_FILE).unlink(missing_ok=True)


def entries(config: Config) -> tuple[ModelEntry, ...]:
    """The models to serve, in order: those that `--model` names, each a path or a name of the catalog; else the default. A
    path may also name the `model.onnx` in a folder.

    A word without a slash that is in the catalog means that model, anything else a file. Raises ConfigError when two have
    the same name, ModelNotFound when the chosen default is gone. Files are not looked at: see `verify_before_load`.
    """
    catalog = read_catalog(config) if not config.model or any(map(_is_name, config.model)) else Catalog()
    wanted = config.model or ((catalog.find(catalog.default).name, *filter(catalog.get, catalog.beside)) if catalog.default else ())
    found: list[ModelEntry] = []
    for number, text in enumerate(wanted):
        alias = config.alias[number] if number < len(config.alias) else ""
        entry = entry_of(text, config, catalog, alias, config.engine[min(number, len(config.engine) - 1)])
        if any(other.name == entry.name for other in found):
            raise ConfigError(f"Two models are called {entry.name!r}.", param="alias", remedy="Give each its own --alias.")
        found.append(entry)
    return tuple(found)


def entry_of(text: str, config: Config, catalog: Catalog, alias: str, engine: str) -> ModelEntry:
    """The model that a word means, under the name `alias`, "" for its own. Raises ConfigError for an engine that cannot serve it."""
    if text.encode("utf-8", "replace").decode() != text:
        raise ConfigError(f"The name of the model {ascii(text)} is not UTF-8.", param="model", remedy="Give the file another name.")
    model = catalog.get(text) if not config.model or _is_name(text) else None
    path = _engine_path(model) if model else Path(text).expanduser()
    path = path.parent if path.name == ONNX_FILE else path
    name = alias or (text if model else path.absolute().name.removesuffix(".gguf"))
    return _with_engine(ModelEntry(name, path, model, engine), config)


def _is_name(text: str) -> bool:
    return "/" not in text and not text.startswith("~")


def _with_engine(entry: ModelEntry, config: Config) -> ModelEntry:
    """The entry with the engine that is to serve it, "auto" only where there are two. Raises ConfigError for one that cannot."""
    if entry.engine == "fake":
        return entry
    if os.path.isdir(entry.path):
        if entry.engine == "llama":
            raise ConfigError(f"{entry.name} is an ONNX model; llama.cpp serves GGUF files.", param="engine", remedy="Use --engine auto.")
        return replace(entry, engine="onnx")
    twin = _twin(entry, config) if entry.engine != "llama" else None
    if entry.engine == "onnx" and twin is None:
        target = f"{entry.path.with_suffix('')}{TWIN}"
        raise ConfigError(
            f"{entry.name} is a GGUF file, and there is no ONNX form of it at {target}.",
            param="engine", remedy=f"Make it: appliance models convert {entry.path} {target} --to onnx",
        )  # fmt: skip
    if entry.engine == "onnx":
        return replace(twin, form_of=entry.path)
    return replace(entry, engine="auto" if twin else "llama", twin=twin)


def _twin(entry: ModelEntry, config: Config) -> ModelEntry | None:
    """The same model as ONNX: NAME-onnx in the catalog for a catalog's NAME, X-onnx beside X.gguf otherwise."""
    if entry.model is not None:
        model = read_catalog(config).get(f"{entry.model.name}{TWIN}")
        fits = model is not None and model.manifest is not None and (model.manifest.format, model.manifest.task) == ("onnx", "generate")
        return ModelEntry(entry.name, model.folder, model, "onnx") if fits else None
    folder = entry.path.with_name(f"{entry.path.name.removesuffix('.gguf')}{TWIN}")
    return ModelEntry(entry.name, folder, None, "onnx") if os.path.isfile(folder / ONNX_FILE) else None


def _engine_path(model: CatalogModel) -> Path:
    onnx = model.manifest is not None and model.manifest.format == "onnx"
    return model.folder if onnx else model.path


def embedder(config: Config, models: Iterable[ModelEntry]) -> ModelEntry | None:
    """The model for embeddings that is served beside `models`; None when it is switched off or one of them, or when it is the
    default and there is none of that name. Raises ConfigError for a wish that cannot be met."""
    entry = _beside(config, "embedder", config.embedder, "embed")
    if entry and any(other.name == entry.name or other.path.absolute() == entry.path.absolute() for other in models):
        return None
    return entry


def pair_verifier(config: Config) -> ModelEntry | None:
    """The model that judges whether two questions mean the same; None when it is switched off, or when it is the default and there
    is none of that name. Raises ConfigError for a wish that cannot be met."""
    return None if config.no_cache or config.exact_only else _beside(config, "pair_verifier", config.pair_verifier, "rerank")


def _beside(config: Config, setting: str, name: str, task: str) -> ModelEntry | None:
    """The model of the catalog that a setting names."""
    wished = config.sources.get(setting, "default") != "default"
    if name in NOBODY or ("fake" in config.engine and not wished):
        return None
    model = read_catalog(config).get(name)
    if model is None or (paper := model.manifest) is None or paper.task != task:
        if not wished:
            return None
        why = "the catalog has no such model" if model is None else model.reason or f"it is for the task {paper.task}"
        raise ConfigError(f"{setting} = {name!r}: {why}.", param=setting, remedy="`appliance models list` shows what there is.")
    return _with_engine(ModelEntry(model.name, _engine_path(model), model), config)


def task_of(entry: ModelEntry) -> str:
    """What a model is for, as its papers or its files say: generate, embed, rerank or classify. A hint: the loaded model knows,
    and files that say nothing, or are none, count as generating."""
    if entry.model and entry.model.manifest:
        return entry.model.manifest.task
    try:
        if (entry.path / ONNX_FILE).is_file():
            return read_facts(entry.path, ONNX_FILE).task
        with entry.path.open("rb") as file:
            return _gguf_task(file.read(HEAD_BYTES))
    except (OSError, ApplianceError):
        return "generate"


def _gguf_task(head: bytes) -> str:
    """From the first bytes alone: `read_header` steps over every word of the vocabulary, which takes a tenth of a second."""
    pooling = re.search(rb"\.pooling_type\x04\0\0\0(.{4})", head, re.DOTALL)
    kind = struct.unpack("<I", pooling[1])[0] if pooling else 0
    if kind == RANK_POOLING:
        return "rerank"
    architecture = re.search(rb"general\.architecture\x08\0\0\0.{8}([\w.-]*)", head, re.DOTALL)
    return "embed" if kind or (architecture and b"bert" in architecture[1]) else "generate"


def check_servable(model: CatalogModel) -> None:
    """Return when an engine of this release can serve the model. Raises ModelFileError."""
    paper = model.readable()
    if paper.format == "onnx":
        if paper.main.path != ONNX_FILE:
            raise ModelFileError(
                f"{model.name} has its weights in {paper.main.path}; an ONNX model is served from {ONNX_FILE} in its own folder.",
                remedy="Put the file and its tokenizer.json into one folder and add that.",
            )
        check_folder(model.folder)


def check_folder(folder: Path) -> None:
    """Return when a folder looks like an ONNX model. Raises ModelFileError that says what is missing."""
    for name in (ONNX_FILE, "tokenizer.json"):
        if not os.path.isfile(folder / name):
            raise ModelFileError(
                f"The folder {folder} has no {name}.",
                remedy="Name a GGUF file or the folder of an ONNX model; `appliance models convert` makes both of checkpoints.",
            )


def verify_before_load(entry: ModelEntry, hashes: integrity.HashCache, stopping: Callable[[], bool] | None = None) -> None:
    """Return when the files of a catalog model are what its manifest says; a file given by its path has no manifest.

    Takes microseconds for files that did not change since they were last read, else about a second for each gigabyte: for
    the thread that starts the engine, not for one that serves requests. Raises ModelFileError, or Draining.
    """
    if entry.model is not None:
        integrity.check(entry.model.folder, entry.model.readable(), hashes, stopping=stopping)
