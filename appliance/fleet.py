"""Which models are served, and where each runs: builds their engines, and changes them while the service runs."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil

from appliance import catalog, trials
from appliance.admission import Admission
from appliance.config import Config, data_dir
from appliance.engine import placement as places
from appliance.engine.child import Child
from appliance.engine.client import EngineClient
from appliance.engine.fake_encoder import FakeEncoder, is_fake_encoder
from appliance.engine.placement import ChildPlacement
from appliance.engine.supervisor import Supervisor
from appliance.engine.topology import Topology
from appliance.engine.worker import WorkerSettings
from appliance.errors import Draining, InvalidRequest, ModelFailed, ModelNotFound
from appliance.forms import Form
from appliance.intake.add import in_units
from appliance.logs import log
from appliance.pipeline import Engine
from appliance.routing import TASKS
from appliance.storage import in_words

ENCODER_REQUESTS = 64
"""Requests an encoder is given at once: it makes batches of whatever is there."""
MORE_MODELS = 3
"""How many models can be added to those of the start: the web worker has threads for their requests."""
CONTEXT_SHARE = 0.1
"""Of the size of its weights, what a model needs beside them at least."""
TICK_S = 0.1


@dataclass(slots=True)
class _Seat:
    """A served model with what its engine is made of. aside: see Engine."""

    entry: catalog.ModelEntry
    task: str
    form: Form
    engine: Engine


class Fleet:
    """The served models. `serve`, `withdraw`, `prefer` and `restart` may be called by any thread and return at once; engines that
    get other cores are then moved one after the other, each when what it is writing is complete."""

    def __init__(self, config: Config, topology: Topology, changed: Callable[[dict[str, Engine]], None] = lambda engines: None) -> None:
        """Build without starting anything. changed: is given the engines when there are others. Raises ConfigError."""
        self.changed, self.queue_size = changed, config.queue_size
        self._config, self.topology = config, topology
        self._hashes = catalog.hash_cache(config)
        models = catalog.entries(config)
        beside, self.verifier = catalog.embedder(config, models), catalog.pair_verifier(config)
        tasks = {entry.name: _task(entry) for entry in (*models, *filter(None, [beside, self.verifier]))}
        cores = self._cores([entry.name for entry in models], tasks)
        self._asked = {entry.name: self._seat(entry, cores[entry.name], tasks[entry.name]) for entry in models}
        self._aside = {
            entry.name: self._seat(entry, cores[entry.name], tasks[entry.name], aside=True, hidden=entry is self.verifier)
            for entry in (beside, self.verifier) if entry
        }  # fmt: skip
        self.most = len(models) + MORE_MODELS
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._leaving: list[_Seat] = []
        self._mover = ThreadPoolExecutor(1, thread_name_prefix="fleet")
        self.engines = self._all_engines()

    @property
    def most_requests(self) -> int:
        """How many requests may ever wait for the engines or be with them, each with a thread."""
        decoders = [seat for seat in self._seats() if seat.task == "generate"]
        encoders = len(self._seats()) - len(decoders)
        inside = (len(decoders) + MORE_MODELS) * self._config.parallel * 2 + encoders * ENCODER_REQUESTS * 5 // 4
        return inside + (len(self._seats()) + MORE_MODELS) * self._config.queue_size

    @property
    def is_kept(self) -> bool:
        """Whether the next start serves what was chosen here; otherwise what the command line or the configuration names."""
        return not self._config.model

    # -- changing it -------------------------------------------------------------------------------------------

    def serve(self, name: str) -> None:
        """Serve one more model of the catalog. Raises ModelNotFound, ModelFileError, ConfigError; InvalidRequest for one that is served,
        that does not fit into memory, or that is one too many."""
        with self._lock:
            if name in self.engines:
                raise InvalidRequest(f"{name} is served already.", param="name")
            if len(self._asked) >= self.most:
                raise InvalidRequest(f"{len(self._asked)} models are served, which is as many as this service was started for.", remedy="Unload one first.")
            entry = self._entry(name)
            task = _task(entry)
            self._check_memory(entry)
            seat = self._seat(entry, ChildPlacement((), 1), task)  # placed with all the others
            self._change({**self._asked, entry.name: seat})

    def withdraw(self, name: str) -> None:
        """Serve a model no more. What it is writing may end first. Raises ModelNotFound, StorageFailed, and InvalidRequest where no other
        one of its kind is ready."""
        with self._lock:
            task = self._find(name).task
            left = {other: seat for other, seat in self._asked.items() if other != name}
            if not any(seat.task == task and seat.engine.supervisor.status.state == "ready" for seat in left.values()):
                raise InvalidRequest(f"No other model for {TASKS[task]} is ready; without {name} nothing is answered.", param="name", remedy="Load another one first, and wait until it is ready.")
            if name == self._config.embedder and self.verifier:
                raise InvalidRequest(f"{name} finds remembered answers.", param="name", remedy="Name another embedder in the settings and restart.")
            self._change(left)

    def prefer(self, name: str) -> None:
        """Make a served model the one that answers where none is named. Raises ModelNotFound."""
        with self._lock:
            first = self._find(name)
            self._change({name: first} | self._asked)

    def restart(self, name: str) -> None:
        """Start an engine anew, also one that was given up. Raises ModelNotFound."""
        with self._lock:
            seat = {**self._asked, **self._aside}.get(name) or self._find(name)
            self._mover.submit(self._begin_again, seat)

    def start(self) -> None:
        """Begin loading the models that were asked for; returns at once."""
        for seat in self._asked.values():
            seat.engine.supervisor.start()

    def stop(self) -> None:
        """End every engine."""
        self._over.set()
        for seat in [*self._leaving, *reversed(self._seats())]:  # first, so that the mover waits for none of them
            seat.engine.supervisor.stop()
        self._mover.shutdown(wait=True, cancel_futures=True)

    def _find(self, name: str) -> _Seat:
        if name not in self._asked:
            raise ModelNotFound(f"No model {name[:100]!r} was loaded.", param="name", remedy=f"Loaded: {', '.join(self._asked)}.")
        return self._asked[name]

    def _entry(self, name: str) -> catalog.ModelEntry:
        config, engine = self._config, self._config.engine[-1]
        found = catalog.read_catalog(config)
        if engine != "fake":
            catalog.check_servable(found.find(name))
        return catalog.entry_of(name, config, found, "", engine)

    def _check_memory(self, entry: catalog.ModelEntry) -> None:
        needed = int(_size_bytes(entry.path) * (1 + CONTEXT_SHARE))
        free = psutil.virtual_memory().available
        if needed > free:
            raise InvalidRequest(
                f"{entry.name} needs {in_units(needed)} of memory at least; {in_units(free)} are free.", param="name", remedy="Unload another model first.",
            )  # fmt: skip

    def _change(self, asked: dict[str, _Seat]) -> None:
        if self._over.is_set():
            raise Draining("The service is stopping.", retry_after_s=10)
        if self.is_kept:
            try:
                catalog.set_served(self._config, [seat.entry.model.name if seat.entry.model else name for name, seat in asked.items()])
            except OSError as error:
                raise in_words(error, "Writing which models are served") from None
        gone = [seat for name, seat in self._asked.items() if name not in asked]
        come = [seat for name, seat in asked.items() if name not in self._asked]
        self._asked, self._leaving = asked, [*self._leaving, *gone]
        cores = self._cores(list(asked), {seat.entry.name: seat.task for seat in self._seats()})
        for seat in come:  # at once: who asks for it is told that it loads
            self._place(seat, cores)
            seat.engine.supervisor.start()
        self.engines = self._all_engines()
        self.changed(self.engines)
        self._mover.submit(self._settle, gone, cores)

    @staticmethod
    def _place(seat: _Seat, cores: dict[str, ChildPlacement]) -> bool:
        """Returns whether that is another place than before."""
        place = cores[seat.entry.name]
        return seat.form.place(place.threads, place.cpus, place.shared, places.child_environment(place))

    # -- on the mover's thread ---------------------------------------------------------------------------------

    def _settle(self, gone: Sequence[_Seat], cores: dict[str, ChildPlacement]) -> None:
        for seat in gone:
            self._quiet(seat.engine)
            name = seat.entry.name
            seat.engine.supervisor.stop(why=ModelFailed(f"The model {name} was unloaded while it wrote this answer.", remedy="Ask another model.", retry_after_s=5))
            self._leaving.remove(seat)
            log("info", f"{name} is not served any more.")
        for seat in self._seats():
            # One that came or went since is left to the next round.
            if seat.entry.name in cores and not self._over.is_set() and self._place(seat, cores) and seat.engine.supervisor.status.state != "absent":
                self._begin_again(seat)

    def _begin_again(self, seat: _Seat) -> None:
        supervisor = seat.engine.supervisor
        seat.engine.admission.hold()
        try:
            self._quiet(seat.engine)
            if not self._over.is_set():
                supervisor.again()
                supervisor.wait_settled()
        finally:
            seat.engine.admission.go_on()

    def _quiet(self, engine: Engine) -> None:
        """Wait until nothing runs, for as long as answers may take when the service stops."""
        for _ in range(int(self._config.drain_s / TICK_S)):
            if not engine.admission.running or self._over.wait(TICK_S):
                return

    # -- building ----------------------------------------------------------------------------------------------

    def _seats(self) -> list[_Seat]:
        return [*self._asked.values(), *self._aside.values()]

    def _all_engines(self) -> dict[str, Engine]:
        return {seat.entry.name: seat.engine for seat in self._seats()}

    def _cores(self, asked: list[str], tasks: dict[str, str]) -> dict[str, ChildPlacement]:
        """Where each model runs; makes the plan. Models that generate divide the box, encoders share what they leave; where
        nothing generates, the encoders that were asked for divide it. Who has a place of the plan keeps it."""
        first = [name for name in asked if tasks[name] == "generate"] or asked
        others = [name for name in tasks if name not in first]
        config = self._config
        self.placement = places.plan_threads(self.topology, config.threads or None, config.cpus or None, children=max(1, len(first)), encoders=len(others))
        return self._assigned(first, self.placement.children) | self._assigned(others, self.placement.encoders)

    def _assigned(self, names: Iterable[str], given: Iterable[ChildPlacement]) -> dict[str, ChildPlacement]:
        left, found = list(given), {}
        before = {seat.entry.name: seat.form.settings for seat in self._seats()} if hasattr(self, "_asked") else {}
        for name in names:
            had = before.get(name)
            same = [place for place in left if had and (place.cpus, place.threads, place.shared) == (had.cpus, had.threads, had.shared)]
            if same:
                found[name] = same[0]
                left.remove(same[0])
        for name in names:
            if name not in found and left:
                found[name] = left.pop(0)
        return found

    def _seat(self, entry: catalog.ModelEntry, place: ChildPlacement, task: str, aside: bool = False, hidden: bool = False) -> _Seat:
        config = self._config
        settings = WorkerSettings(
            engine=entry.engine,
            name=entry.name,
            path=str(entry.path),
            context_tokens=config.ctx_size,
            sequences=config.parallel,
            kv_tokens=config.kv_size,
            threads=place.threads,
            cpus=place.cpus,
            batch_tokens=config.batch_size,
            stall_s=config.stall_ms / 1000,
            store_bytes=config.prefix_cache_mb * 1_000_000,
            type_k=config.cache_type_k,
            type_v=config.cache_type_v,
            flash_attn=config.flash_attn,
            mlock=config.mlock,
            shared=place.shared,
            fake_step_s=float(os.environ.get("APPLIANCE_FAKE_STEP_S", "0")),
        )
        client = EngineClient()
        form = Form(
            entry, settings, places.child_environment(place), self._hashes, trials.Trials(data_dir(config) / trials.FILE), self.topology.cpu_key,
            wants_digest=not config.no_cache,
        )  # fmt: skip
        supervisor = Supervisor(
            entry.name,
            lambda: Child(form.settings, form.environment),
            client,
            hang_timeout_s=config.hang_timeout_s,
            load_timeout_s=config.load_timeout_s,
            log=log,
            check=form.check,
        )
        admission = Admission(config.parallel if task == "generate" else ENCODER_REQUESTS, self.queue_size)
        wake = Once(supervisor.start) if aside else lambda: None
        return _Seat(entry, task, form, Engine(supervisor, client, admission, task, aside, wake, hidden, lambda: form.digest))


class Once:
    """Does something when it is first called, whoever calls it."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work: Callable[[], None] | None = work
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            work, self._work = self._work, None
            if work:
                work()


def _task(entry: catalog.ModelEntry) -> str:
    if entry.engine == "fake":
        return FakeEncoder(entry.name).info.task if is_fake_encoder(entry.name) else "generate"
    return catalog.task_of(entry)


def _size_bytes(path: Path) -> int:
    """Of a file, or of the files in a folder; 0 where there is none."""
    try:
        return path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    except OSError:
        return 0
