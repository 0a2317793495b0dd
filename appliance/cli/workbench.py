"""What the commands of the model factory have in common: the model a word means, what has to be installed, Ctrl-C, a bar."""

from __future__ import annotations

import argparse
import functools
import importlib.util
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from appliance import catalog, manifest
from appliance.cli.progress import Bar
from appliance.config import Config, load_for_work
from appliance.errors import InvalidRequest, ModelFileError, ModelFileMissing, PermissionDenied, Unavailable
from appliance.factory.convert_onnx import MODEL
from appliance.intake.facts import plain
from appliance.manifest import FILE_NAME, Manifest
from appliance.storage import in_words

EXTRA = "Install it with `./install.sh --user --extra factory`."
INTERRUPTED = 130
Run = Callable[[argparse.Namespace], int]
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Subject:
    """A model to work on. path: a GGUF file, or the folder of an ONNX model. main: the file that holds the weights.
    paper: the manifest, where it is a model of the catalog or a folder that has one."""

    name: str
    path: Path
    main: Path
    paper: Manifest | None = None

    @property
    def format(self) -> str:
        """"gguf" or "onnx"."""
        return "onnx" if self.path != self.main else "gguf"

    @property
    def folder(self) -> Path:
        """Where its papers lie."""
        return self.path if self.format == "onnx" else self.main.parent


def path(text: str) -> Path:
    """A path of the command line, for argparse."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"the name {plain(ascii(text))} is not UTF-8") from None
    if not text:
        raise argparse.ArgumentTypeError("the name is empty")
    return Path(text).expanduser()


def word(text: str) -> str:
    """A path, or a name of the catalog, for argparse."""
    path(text)
    return text


def config_of(arguments: argparse.Namespace) -> Config:
    """The configuration, for the data folder."""
    return load_for_work({"data_dir": arguments.data_dir, "config": arguments.config})


def find(text: str, arguments: argparse.Namespace) -> Subject:
    """The model that a word means: one of the catalog, a GGUF file, a folder. Raises ModelFileMissing or ModelFileError."""
    is_name = "/" not in text and not text.startswith("~")
    if is_name and (model := catalog.read_catalog(config_of(arguments)).get(text)):
        paper = model.readable()
        return Subject(model.name, model.path if paper.format == "gguf" else model.folder, model.path, paper)
    place = path(text)
    if place.is_dir():
        return _in_folder(place)
    if place.suffix.lower() == ".onnx" and place.is_file():
        return _in_folder(place.parent)
    if not place.exists():
        remedy = "Nor does the catalog have a model of that name: appliance models list." if is_name else "Check the path."
        raise ModelFileMissing(f"There is no model at {place}.", remedy=remedy)
    return Subject(place.name, place, place)


def _in_folder(folder: Path) -> Subject:
    if (folder / FILE_NAME).is_file():
        paper = manifest.read(folder / FILE_NAME)
        main = folder / paper.main.path
        return Subject(folder.resolve().name, main if paper.format == "gguf" else folder, main, paper)
    if (folder / MODEL).is_file():
        return Subject(folder.resolve().name, folder, folder / MODEL)
    raise ModelFileMissing(f"There is no {MODEL} in {folder}.", remedy="Name a .gguf file, or a folder that `appliance models convert` has made.")


def needs(doing: str, *packages: str) -> None:
    """Return when all packages are installed. Raises Unavailable that names those that are not."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        what = f"the package {missing[0]}, which is" if len(missing) == 1 else f"the packages {', '.join(missing)}, which are"
        raise Unavailable(f"{doing} needs {what} not installed.", remedy=EXTRA)


def check_target(target: Path) -> None:
    """Return when a file or folder can be made there. Raises InvalidRequest or PermissionDenied."""
    if target.exists() or target.is_symlink():
        raise InvalidRequest(f"{target} exists already.", param="target", remedy="Remove it or choose another name.")
    check_folder(target.parent)


def check_folder(folder: Path) -> None:
    """Return when files can be written into the folder. Raises InvalidRequest or PermissionDenied."""
    if not folder.is_dir():
        raise InvalidRequest(f"There is no folder {folder}.", param="target", remedy="Make it first.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionDenied(f"Writing into {folder} is not allowed.", remedy="Run the command as the user whom the folder belongs to.")


def check_file(file: Path, what: str) -> None:
    """Return when there is such a file. Raises ModelFileMissing."""
    if not file.is_file():
        raise ModelFileMissing(f"There is no {what} at {file}.", remedy="Check the path.")


def in_sentences(doing: str) -> Callable[[Run], Run]:
    """For a command: what the system and the libraries raise becomes an ApplianceError. doing: "converting"."""

    def wrap(run: Run) -> Run:
        @functools.wraps(run)
        def told(arguments: argparse.Namespace) -> int:
            try:
                with hearing_ctrl_c():
                    return run(arguments)
            except BrokenPipeError:
                raise
            except ModelFileError as error:
                if isinstance(error.__cause__, ImportError):  # a library that another one misses
                    raise _incomplete(doing, error.__cause__) from None
                raise
            except ImportError as error:
                raise _incomplete(doing, error) from None
            except OSError as error:
                raise in_words(error, f"{doing.capitalize()}{f' ({error.filename})' if error.filename else ''}") from None
            except UnicodeEncodeError as error:
                raise InvalidRequest(f"{ascii(error.object)[:100]} cannot be written as {error.encoding}.", remedy="Choose another name.") from None
            except Exception as error:
                if not type(error).__module__.startswith("onnxruntime"):
                    raise
                first = plain((str(error).splitlines() or [""])[0])[:300]
                raise ModelFileError(f"onnxruntime cannot run the model: {first}", remedy="Its files do not fit together: convert it again.") from None

        return told

    return wrap


@contextmanager
def hearing_ctrl_c() -> Iterator[None]:
    """Within it no Ctrl-C is lost. Where Python can only print an exception and forget it (a weak reference's callback, as
    every import has one, or C that called back), KeyboardInterrupt is raised again a moment later."""
    usual = sys.unraisablehook

    def forgotten(told: sys.UnraisableHookArgs) -> None:
        if told.exc_type is KeyboardInterrupt:
            threading.Timer(0.01, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)).start()
        else:
            usual(told)

    sys.unraisablehook = forgotten
    try:
        yield
    finally:
        sys.unraisablehook = usual


def _incomplete(doing: str, error: ImportError) -> Unavailable:
    return Unavailable(f"{doing.capitalize()} needs a package that is missing or damaged: {plain(str(error))[:200]}.", remedy=EXTRA)


def interruptible(work: Callable[[], Result], *leftovers: Path) -> Result:
    """What work() returns. Ctrl-C ends the process at once and deletes `leftovers`.

    For work of which nothing else is left behind: a library that computes for minutes sees no Ctrl-C, and an exception in
    llama.cpp's callbacks would be printed and forgotten.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="factory") as pool:
        future = pool.submit(work)
        try:
            return future.result()
        except KeyboardInterrupt:
            for file in leftovers:
                file.unlink(missing_ok=True)
            if sys.stderr.isatty():
                print(file=sys.stderr)
            sys.stderr.flush()
            os._exit(INTERRUPTED)


class Share(Bar):
    """A bar for work that is not counted in bytes: call it with a share, 0 to 1, and perhaps another label."""

    def to(self, share: float, label: str = "") -> None:
        """So far it is."""
        self.label = label or self.label
        self.total, self.done = 1000, int(share * 1000)
        self(0)

    @property
    def live(self) -> bool:
        """Whether there is a terminal to draw on."""
        return self._live

    def _show(self) -> None:
        self._file.write(f"\r{self._line()}\x1b[K")
        self._file.flush()

    def note(self, words: str) -> None:
        """A line that stays, also where there is no terminal."""
        self._file.write(f"\r{words}\x1b[K\n" if self._live else f"{words}\n")
        self._file.flush()
