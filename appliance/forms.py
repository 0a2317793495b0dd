"""In which form a model is loaded: as it was named, or as its twin in ONNX where that is faster here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from appliance import catalog
from appliance.engine import trial
from appliance.engine.worker import WorkerSettings
from appliance.errors import ModelFileError
from appliance.integrity import HashCache
from appliance.logs import log
from appliance.storage import in_words as in_sentence
from appliance.trials import Trials, fastest, in_words

SOURCE_FILE = "source.json"
"""In the folder of an ONNX model: the SHA-256 of the GGUF files that it is another form of."""
Stopping = Callable[[], bool]


class Form:
    """What one model is loaded from. For the thread of its supervisor, but for `place`.

    digest: of what makes its answers, '' before the first check. Any thread may read it.
    """

    def __init__(
        self, entry: catalog.ModelEntry, settings: WorkerSettings, environment: Mapping[str, str], hashes: HashCache, trials: Trials, cpu: str, *, wants_digest: bool = False
    ) -> None:
        self.settings = settings
        self.digest = ""
        self._wants_digest = wants_digest
        self.environment = environment
        self._entry, self._given = entry, settings
        self._hashes, self._trials, self._cpu = hashes, trials, cpu

    def place(self, threads: int, cpus: tuple[int, ...], shared: bool, environment: Mapping[str, str]) -> bool:
        """From its next start on the engine runs there. Returns whether that is another place."""
        where = {"threads": threads, "cpus": cpus, "shared": shared}
        before, self._given = self._given, replace(self._given, **where)
        self.settings, self.environment = replace(self.settings, **where), environment
        return self._given != before

    def check(self, stopping: Stopping) -> None:
        """Choose, and look at the files that will be loaded: before each start of a child. Raises ModelFileError, or Draining."""
        entry = self._entry
        catalog.verify_before_load(entry, self._hashes, stopping)
        if entry.form_of and not self._belongs(entry.path, entry.form_of, stopping):
            raise ModelFileError(
                f"{entry.path} was made of another file than {entry.form_of}.",
                remedy=f"Convert it again, or serve it by its own name: --model {entry.path}",
            )
        if entry.engine == "onnx":
            self._tell_what_has_no_effect()
        if entry.twin:
            self._choose(entry, entry.twin, stopping)
        if self._wants_digest:
            self.digest = self._digest_of_weights(stopping)

    def _choose(self, entry: catalog.ModelEntry, twin: catalog.ModelEntry, stopping: Stopping) -> None:
        forms = {"llama": replace(self._given, engine="llama"), "onnx": replace(self._given, engine="onnx", path=str(twin.path))}
        self.settings = forms["llama"]
        try:
            catalog.verify_before_load(twin, self._hashes, stopping)
            belongs = self._belongs(twin.path, entry.path, stopping)
        except ModelFileError as error:
            log("warning", f"{entry.name} is served by llama; its ONNX form cannot be used: {error}")
            return
        if not belongs:
            log("warning", f"{entry.name} is served by llama: {twin.path} was made of another file than {entry.path}. Convert it again.")
            return
        rates = self._trials.rates(
            self._key(entry.path, twin.path, stopping),
            {engine: partial(trial.run, form, self.environment, stopping) for engine, form in forms.items()},
        )
        chosen = fastest(rates)
        self.settings = forms[chosen]
        log("info", f"{entry.name} is served by {in_words(rates, chosen)}.")

    def _belongs(self, folder: Path, gguf: Path, stopping: Stopping) -> bool:
        """Whether the ONNX model in the folder is a form of this very file."""
        try:
            listed = json.loads((folder / SOURCE_FILE).read_text("utf-8"))["sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return self._hash(gguf, stopping) in listed

    def _hash(self, path: Path, stopping: Stopping) -> str:
        try:
            return self._hashes.sha256(path, stopping=stopping)[0]
        except OSError as error:
            raise in_sentence(error, f"Reading {path}") from None

    def _digest_of_weights(self, stopping: Stopping) -> str:
        """Changes with whatever makes this model's answers others: weights, vocabulary, template, and how it remembers a prompt.
        A GGUF file and its ONNX form are one model."""
        entry, given = self._entry, self._given
        if entry.engine == "fake":
            return f"fake {entry.name}"
        source = entry.form_of or entry.path
        files = [source] if source.is_file() else sorted(file for file in source.iterdir() if file.is_file() and file.suffix not in (".md", ".toml"))
        whole = " ".join([*(self._hash(file, stopping) for file in files), given.type_k, given.type_v])
        return hashlib.sha256(whole.encode()).hexdigest()

    def _key(self, gguf: Path, folder: Path, stopping: Stopping) -> str:
        files = [gguf, *sorted(folder.glob(f"{catalog.ONNX_FILE}*"))]
        given = self._given
        settings = f"threads={given.threads} sequences={given.sequences} context={given.context_tokens} k={given.type_k} v={given.type_v} fa={given.flash_attn}"
        return " ".join([*(self._hash(path, stopping)[:16] for path in files), self._cpu, settings])

    def _tell_what_has_no_effect(self) -> None:
        given, usual = self._given, WorkerSettings.__dataclass_fields__
        fields = {"cache_type_k": "type_k", "cache_type_v": "type_v", "flash_attn": "flash_attn", "mlock": "mlock"}
        idle = [name for name, field in fields.items() if getattr(given, field) != usual[field].default]
        if idle:
            log("warning", f"{given.name} is an ONNX model: {', '.join(idle)} {'has' if len(idle) == 1 else 'have'} no effect on it.")
