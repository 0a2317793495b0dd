"""The composition root: builds the parts, starts them in order, stops them in reverse. Runs in the web worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any

import psutil

from appliance import saved_settings
from appliance.access.service import Access
from appliance.audit import Audit
from appliance.auth import Auth
from appliance.backup import shelf
from appliance.cache.lookup import Options
from appliance.cache.policy import read_shares
from appliance.cache.service import Cache
from appliance.clock import monotonic, unix_seconds
from appliance.config import Config, data_dir, load_config, needs_key
from appliance.doctor import reading, running
from appliance.doctor.facts import Facts
from appliance.doctor.service import Doctor
from appliance.engine.supervisor import Supervisor
from appliance.engine.topology import observed_placement, read_topology
from appliance.errors import ApplianceError, ConfigError
from appliance.fleet import Fleet
from appliance.history import History
from appliance.jobs import Jobs
from appliance.logs import LOGGER, configure, log
from appliance.meaning import CALIBRATION, Encoders
from appliance.metrics import Gauge, Metrics
from appliance.pipeline import Engine, Pipeline
from appliance.recall import Recall
from appliance.renewal import Renewal
from appliance.tls_context import Tls
from appliance.trail.log import SERVICE, Trail
from appliance.uploads import Uploads
from appliance.usage import Usage

AUDIT_EVERY_S, DOCTOR_EVERY_S = 5.0, 60.0


class Services:
    """Everything a running service consists of. Attributes are what `http` may use."""

    def __init__(self, config: Config, reload_config: Callable[[], Config] = load_config, tls: Tls | None = None) -> None:
        """Build without starting anything. tls: opened; another one is made where none is given. Raises ConfigError."""
        self.config = config
        self.tls = tls or Tls(config, log)
        self._bound_host = config.host  # a reload does not move the socket
        self.auth = Auth.from_config(config)
        self.metrics = Metrics()
        self.started_unix = unix_seconds()
        self._reload_config = reload_config
        self.began_with = config
        self.topology = read_topology()
        self.fleet = Fleet(config, self.topology)
        self.cache = None if config.no_cache else self._cache()
        recall = self.cache and Recall(
            self.cache,
            self._digest,
            self.metrics,
            shares=read_shares(config.cache_share),
            excluded=frozenset(config.cache_exclude),
            epoch=config.cache_epoch,
        )
        self.pipeline = Pipeline(self.fleet.engines, self.metrics, timeout_s=config.request_timeout_s, recall=recall)
        self.fleet.changed = self._take_engines
        self._changing, self._keys = threading.Lock(), threading.Lock()
        self.history = History(self.metrics)
        self.access = Access(data_dir(config), log, ticks=monotonic)
        self.usage = Usage(data_dir(config), log)
        self.uploads = Uploads(data_dir(config) / "uploads")
        self.trail = Trail(data_dir(config), log)
        self.jobs = Jobs(data_dir(config) / "jobs", _for_commands(config), log)
        self._janitor = Janitor([self._tell_cache_of_models, self._tick_cache, self._tick_keys, self.history.tick, self.access.tick, self.jobs.tick, self.uploads.tick, self.usage.tick, self.tls.tick, self.trail.tick])
        self._models_told: list[str] = []
        self._keys_stamp = 0
        self._audit = self._renewal = None
        if self.cache and recall:
            self._audit = Audit(self.cache, self.cache.meaning, self.pipeline.generate, self._idle, time.time, config.cache_audit / 100)
            recall.noticed = self._audit.note
            self._renewal = Renewal(self.cache, recall, self.pipeline.generate, self._idle, self._served)
        idly = [self._audit, self._renewal] if self._audit and self._renewal else []
        self._auditor = Janitor([work.tick for work in idly], every_s=AUDIT_EVERY_S, name="auditor")
        self.doctor = Doctor(self._facts)
        self._visits = Janitor([self.doctor.tick], every_s=DOCTOR_EVERY_S, name="doctor")
        self.metrics.add_source(self._gauges)

    def _facts(self) -> Facts:
        seen = running.here(self.pipeline.engines, self.started_unix)
        return reading.collect(self.config, seen, whole_up_to=reading.WHOLE_WHILE_SERVING)

    def _cache(self) -> Cache:
        config, engines, verifier = self.config, self.fleet.engines, self.fleet.verifier
        judge = engines[verifier.name] if verifier else None
        meaning = Encoders(engines.get(config.embedder), judge, verifier.path / CALIBRATION if verifier else None)
        options = Options(
            entries=config.cache_entries,
            size_bytes=config.cache_mb * 1_000_000,
            ttl_s=config.cache_ttl_s or None,
            budget=config.max_wrong_hits / 100,
        )
        return Cache(data_dir(config), meaning, options, self.metrics, log)

    def _take_engines(self, engines: dict[str, Engine]) -> None:
        self.pipeline.engines = engines

    def _digest(self, name: str) -> str:
        engine = self.fleet.engines.get(name)  # it may have been unloaded since the question came
        return engine.digest() if engine else ""

    @property
    def supervisors(self) -> list[Supervisor]:
        """One for each model, in order."""
        return [engine.supervisor for engine in self.pipeline.engines.values()]

    @property
    def asked_for(self) -> list[Supervisor]:
        """Those of the models that were asked for: they are loaded at the start, and without any of them there is no service."""
        return [engine.supervisor for engine in self.pipeline.engines.values() if not engine.aside]

    def start(self) -> None:
        """Begin loading the models that were asked for; returns at once."""
        for note in self.fleet.placement.notes:
            log("info", note)
        self.tls.tick()  # it may have been opened a year before this worker was started
        self._open_trail()
        self._open_cache()
        self._open_access()
        self.jobs.open()
        self._janitor.start()
        self._visits.start()
        self.fleet.start()
        for name, engine in self.pipeline.engines.items():
            if engine.aside and not engine.hidden:
                log("info", f"{name} is served as well; the first request that needs it starts its engine.")

    def _tell_cache_of_models(self) -> None:
        """Once all are known: answers of models that are gone are kept aside."""
        digests = [engine.digest() for engine in self.pipeline.engines.values() if engine.papers == "generate"]
        if self.cache is None or not digests or not all(digests) or digests == self._models_told:
            return
        try:
            self.cache.models_are(digests)
            self._models_told = digests
        except ApplianceError as error:
            log("warning", f"The cache could not be told which models are served: {error}")

    def _idle(self, answers: int) -> bool:
        """Whether no more than so many answers are wanted now."""
        lines = [engine.admission for engine in self.pipeline.engines.values() if engine.task == "generate"]
        return not self.pipeline.draining and sum(line.waiting + line.running for line in lines) <= answers

    def _served(self, name: str) -> str:
        """The model that took the place of one that is or was served."""
        names = [one for one, engine in self.pipeline.engines.items() if engine.papers == "generate"]
        return name if name in names else next(iter(names), "")

    def _open_cache(self) -> None:
        """A cache that cannot be opened costs time, not the service."""
        if self.cache is None:
            return
        try:
            self.cache.open()
        except (ApplianceError, OSError) as error:
            self.cache = self.pipeline.recall = None
            log("error", f"No answer is remembered: {error}")
            return
        self._auditor.start()

    def renew_auth(self) -> None:
        """Keys were made or revoked. Raises StorageFailed."""
        with self._keys:
            self._take_keys(self.auth, self.config)

    def _take_keys(self, auth: Auth, config: Config) -> None:
        made, closed = self.access.key_digests()
        self.auth = auth.with_made(made, closed or needs_key(config, self._bound_host))  # where others reach it, it never opens by itself

    def _tick_keys(self) -> None:
        """Commands make and revoke keys as well."""
        stamp = self.access.stamp()
        if stamp != self._keys_stamp:
            self._keys_stamp = stamp
            self.renew_auth()

    def _tick_cache(self) -> None:
        if self.cache:
            self.cache.tick()

    def _open_trail(self) -> None:
        """Without it nothing is refused; what it lacks stands in the log."""
        try:
            self.trail.open()
            self.trail.started(installed_version())
        except (ApplianceError, OSError) as error:
            log("error", f"The audit log is not written: {error}")

    def _open_access(self) -> None:
        """Without it nobody can sign in; answers are given all the same."""
        try:
            self.access.open()
        except (ApplianceError, OSError) as error:
            log("error", f"Nobody can sign in to the admin pages: {error}")
        try:
            self.usage.open()
        except (ApplianceError, OSError) as error:
            log("error", f"Usage is not written down: {error}")
        self.renew_auth()
        if self.access.code:
            log("warning", f"To make the first administrator open /admin/first?code={self.access.code} in a browser.")

    def reload(self) -> None:
        """Take over what can change while running. An invalid configuration is told and the old one kept."""
        before = self.config.shown()
        self._take_over()
        self.trail.changed(SERVICE, before, self.config.shown())

    def _take_over(self) -> None:
        try:
            fresh = self._reload_config()
            auth = Auth.from_config(fresh)
            if needs_key(fresh, self._bound_host) and not auth.with_made(*self.access.key_digests()).required:
                raise ConfigError(
                    f"The service listens on {self._bound_host}, and without a key everybody there could use it.",
                    remedy="Keep a key, set allow_anonymous, or restart with another host.",
                )
        except ConfigError as error:
            log("error", f"The configuration was not reloaded, the old one stays: {error}")
            return
        with self._keys:
            self._take_keys(auth, fresh)
        self.pipeline.timeout_s = fresh.request_timeout_s
        if self.cache:
            self.cache.set_budget(fresh.max_wrong_hits / 100)
        self.fleet.queue_size = fresh.queue_size
        for engine in self.pipeline.engines.values():
            engine.admission.queue_size = fresh.queue_size
        configure(fresh.log_level, fresh.log_format)
        self.tls.reload(fresh)
        self.config = fresh
        log("info", "Configuration reloaded: keys, limits and logging. Other settings need a restart.")

    def change_settings(self, changes: Mapping[str, Any] | None) -> None:
        """What the admin page wants changed, or put back (None). What can change while running does so at once. Raises InvalidRequest,
        StorageFailed; then nothing is changed."""
        with self._changing:
            folder = data_dir(self.config)
            if changes is None:
                saved_settings.put_back(folder, self._reload_config)
            else:
                saved_settings.change(folder, changes, self._reload_config)
            self._take_over()

    def pending(self) -> Config:
        """The configuration that a restart would give. Raises ConfigError."""
        return self._reload_config()

    def drain(self) -> None:
        """Take no new requests and let the running ones end, for at most drain_s; what still runs then is told why it ends."""
        self.pipeline.draining = True
        until = monotonic() + self.config.drain_s
        while monotonic() < until and any(e.admission.running or e.admission.waiting for e in self.pipeline.engines.values()):
            time.sleep(0.05)
        self.stop()  # not left to gunicorn: it would cut the streams

    def stop(self) -> None:
        """End every engine, then close the files."""
        for work in (self._audit, self._renewal):
            if work:
                work.stop()
        self._auditor.stop()
        self._janitor.stop()
        self._visits.stop()
        self.fleet.stop()
        if self.cache:
            self.cache.close()
        self.usage.close()
        self.access.close()
        with self._changing:  # a drain and the worker's end may both be here
            if self.trail.is_open:
                self.trail.note(SERVICE, "service.stop")
                self.trail.close()

    # -- gauges ------------------------------------------------------------------------------------------------

    def _gauges(self) -> Iterator[Gauge]:
        yield from _engine_gauges(self.pipeline.engines)
        yield from _placement_gauges(self.supervisors)
        memory = psutil.Process().memory_info().rss
        if self.cache:
            yield from self.cache.gauges()
        yield from self.tls.gauges()
        yield from self.doctor.gauges()
        if backup := shelf.newest(self.config):
            yield "appliance_backup_age_seconds", "Age of the newest backup in which no fault was found.", [({}, time.time() - backup.made)]
        yield "appliance_web_memory_bytes", "Resident memory of the web worker.", [({}, memory)]
        yield from _llama_names(self.metrics, self.pipeline.engines)


def installed_version() -> str:
    """Of this package."""
    try:
        return metadata.version("appliance")
    except metadata.PackageNotFoundError:
        return "not installed"


def _for_commands(config: Config) -> dict[str, str]:
    """The environment in which a command means the same data folder as the service."""
    return {"APPLIANCE_DATA_DIR": str(data_dir(config).absolute()), "APPLIANCE_OFFLINE": str(config.offline).lower()}


class Janitor:
    """A thread for what is done now and then, a piece at a time."""

    def __init__(self, tasks: Sequence[Callable[[], None]], every_s: float = 1.0, name: str = "janitor") -> None:
        """tasks: one that raises is told in the log, once for each fault, and tried again."""
        self._tasks, self._every_s, self._name = tasks, every_s, name
        self._told: set[str] = set()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(self._every_s):
            for task in self._tasks:
                try:
                    task()
                except Exception as error:  # one fault must not end all upkeep
                    if repr(error) not in self._told:
                        self._told.add(repr(error))
                        LOGGER.error(f"{self._name}: {error!r}", exc_info=error)

    def stop(self) -> None:
        """End it, after the task it is at. Safe to call again, and before the start."""
        self._over.set()
        if self._thread:
            self._thread.join(10)


def _engine_gauges(engines: dict[str, Engine]) -> Iterator[Gauge]:
    rows = [({"model": name}, engine) for name, engine in engines.items()]

    def gauge(name: str, text: str, value: Callable[[Engine], float]) -> Gauge:
        return name, text, [(labels, value(engine)) for labels, engine in rows]

    def load(field: str) -> Callable[[Engine], float]:
        return lambda engine: engine.supervisor.status.load.get(field, 0)

    yield gauge("appliance_engine_ready", "1 when the model can answer.", lambda e: e.supervisor.status.state == "ready")
    yield gauge("appliance_requests_waiting", "Requests in line.", lambda e: e.admission.waiting)
    yield gauge("appliance_sequences_admitted", "Sequences let in and not yet ended.", lambda e: e.admission.running)
    yield gauge("appliance_engine_running", "Sequences the engine computes.", load("running"))
    yield gauge("appliance_engine_steps_total", "Steps since the engine started.", lambda e: e.client.steps)
    yield gauge("appliance_engine_step_seconds", "Length of the last step.", load("step_s"))
    yield gauge("appliance_kv_used_tokens", "KV cache held by running sequences.", load("kv_used_tokens"))
    yield gauge("appliance_kv_cached_tokens", "KV cache held by remembered prefixes.", load("kv_cached_tokens"))
    yield gauge("appliance_kv_total_tokens", "KV cache in all.", load("kv_total_tokens"))
    yield gauge("appliance_prefix_store_bytes", "Memory of displaced prefixes.", load("stored_prefix_bytes"))
    yield (
        "appliance_engine_restarts_total",
        "Deaths of engine processes by cause.",
        [({**labels, "cause": c}, n) for labels, e in rows for c, n in e.supervisor.status.restarts.items()],
    )


def _placement_gauges(supervisors: Iterable[Supervisor]) -> Iterator[Gauge]:
    threads, allowed = [], []
    for supervisor in supervisors:
        pid = supervisor.status.pid
        seen = observed_placement(pid) if pid else []
        threads.append(({"model": supervisor.name}, float(len(seen))))
        for thread in seen:
            cpus = ",".join(map(str, thread.allowed_cpus))
            allowed.append(({"model": supervisor.name, "tid": str(thread.tid), "cpus": cpus}, float(thread.last_cpu)))
    yield "appliance_engine_threads", "Threads of the engine process.", threads
    yield "appliance_engine_thread_cpu", "CPU a thread last ran on; `cpus` is where it may run.", allowed


def _llama_names(metrics: Metrics, engines: dict[str, Engine]) -> Iterator[Gauge]:
    """llama-server's names, so that dashboards made for it go on working."""
    prompt = metrics.total("appliance_prompt_tokens_total") - metrics.total("appliance_cached_prompt_tokens_total")
    yield "llamacpp:prompt_tokens_total", "Number of prompt tokens processed.", [({}, prompt)]
    yield (
        "llamacpp:tokens_predicted_total",
        "Number of generation tokens processed.",
        [({}, metrics.total("appliance_generated_tokens_total"))],
    )
    running = sum(e.supervisor.status.load.get("running", 0) for e in engines.values())
    yield "llamacpp:requests_processing", "Number of requests processing.", [({}, running)]
    waiting = sum(e.admission.waiting for e in engines.values())
    yield "llamacpp:requests_deferred", "Number of requests deferred.", [({}, waiting)]
    steps = sum(e.client.steps for e in engines.values())
    yield "llamacpp:n_decode_total", "Total number of decode calls.", [({}, steps)]
