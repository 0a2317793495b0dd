"""Rules about the service: its configuration, its data, its models and what it says of itself. Pure: facts go in, findings come out."""

from __future__ import annotations

from collections.abc import Iterator

from appliance.catalog import TWIN
from appliance.config import is_loopback
from appliance.doctor.facts import Facts
from appliance.doctor.findings import Finding
from appliance.doctor.rules_machine import gigabytes

DAY_S = 86_400.0
RESTARTS_A_DAY = 2
BACKUP_DAYS = 7
CERTIFICATE_DAYS = 21
WAL_BYTES = 256 << 20
"""`journal_size_limit` is 16 MiB: a log of this size is not cut any more."""
LARGE_BYTES = 100_000_000
RESTART_REMEDIES = {
    "out_of_memory": "Lower `ctx_size` or `parallel`, or serve a smaller model.",
    "hang": "Raise `hang_timeout_s` if the box is merely slow; look for other programs on the same cores.",
    "slow_boot": "Raise `load_timeout_s`, or put the model on a faster disk.",
}


def configuration_invalid(facts: Facts) -> Iterator[Finding]:
    """The service would not start with what is configured."""
    if facts.config_error:
        yield Finding(
            "configuration_invalid", "problem", f"The configuration is not valid: {facts.config_error}",
            "A running service keeps its old configuration; at the next start it would not come up.",
            "Correct what is named, then `appliance serve --check-config`.",
        )  # fmt: skip


def open_to_everybody(facts: Facts) -> Iterator[Finding]:
    """Other machines are served and no key is asked for."""
    host = str(facts.settings.get("host", "127.0.0.1"))
    if not is_loopback(host) and facts.has_keys is False:
        yield Finding(
            "open_to_everybody", "warning", f"The service listens on {host}, and there is no API key; at least one is meant.",
            "Everybody on the network may use it, and nobody can be told apart in usage and logs.",
            "Make a key on the page Access or name a file in `api_key_file`, and take `allow_anonymous` out.",
        )  # fmt: skip


def port_taken(facts: Facts) -> Iterator[Finding]:
    """The port cannot be had."""
    port = facts.settings.get("port") or 0
    if facts.listener == "other":
        yield Finding(
            "port_taken", "problem", f"Another program listens on port {port}; it must be free for this service.",
            "The service cannot start.", f"Find it with `ss -ltnp 'sport = :{port}'` and stop it, or choose another `port`.",
        )  # fmt: skip
    elif facts.listener == "nobody" and 0 < port < facts.open_ports_from and facts.uid != 0:
        yield Finding(
            "port_needs_privileges", "problem", f"The port is {port}; below {facts.open_ports_from} only root may listen, and the service is not root.",
            "The service cannot start.",
            f"Choose a `port` from {facts.open_ports_from} on, or `sysctl net.ipv4.ip_unprivileged_port_start={port}`.",
        )  # fmt: skip


def hostname_unknown(facts: Facts) -> Iterator[Finding]:
    """The box does not know its own name."""
    if facts.hostname_found is False:
        yield Finding(
            "hostname_unknown", "warning", f"The box's own name, {facts.hostname}, does not resolve to an address; it must.",
            "Programs that look it up wait for seconds, sudo and mail among them, and nobody can reach the box by that name from itself.",
            f"Add the line `127.0.1.1 {facts.hostname}` to /etc/hosts.",
        )  # fmt: skip


def units_failed(facts: Facts) -> Iterator[Finding]:
    """Units that systemd has given up."""
    for unit in facts.failed_units:
        ours = unit.startswith("appliance")
        yield Finding(
            "unit_failed", "problem" if ours else "note", f"The unit {unit} has failed.",
            "A part of this service does not run." if ours else "A part of the system does not run; it may not concern this service.",
            f"`systemctl status {unit}` and `journalctl -u {unit}` say why; `systemctl restart {unit}` when the cause is gone.",
        )  # fmt: skip


def engines_failed(facts: Facts) -> Iterator[Finding]:
    """Models that were asked for and do not run."""
    for engine in facts.engines:
        if engine.state == "failed":
            yield Finding(
                "engine_failed", "problem", f"The model {engine.name} does not run: {engine.reason}",
                "Requests for it are refused.", "Do what the reason says, then start it anew on the page Models.",
            )  # fmt: skip


def engines_restarted(facts: Facts) -> Iterator[Finding]:
    """Engines that died more often than now and then. How often is known since the service's start only."""
    days = max(1.0, (facts.now - (facts.started_at or facts.now)) / DAY_S)
    for engine in facts.engines:
        number = sum(engine.restarts.values())
        if number > RESTARTS_A_DAY * days:
            most = max(engine.restarts, key=lambda cause: engine.restarts[cause])
            causes = ", ".join(f"{cause} {times}" for cause, times in engine.restarts.items())
            yield Finding(
                "engine_restarts", "warning",
                f"The engine of {engine.name} died {number} times in {days:.1f} days ({causes}); up to {RESTARTS_A_DAY} a day may be chance.",
                "Answers that were being written are lost, and others wait until it is loaded again.",
                RESTART_REMEDIES.get(most, "The log says what it was doing: `journalctl -u appliance`. Report it with `appliance doctor --bundle FILE`."),
            )  # fmt: skip


def databases_damaged(facts: Facts) -> Iterator[Finding]:
    """Files that are no whole databases, or of another version."""
    for base in facts.bases:
        if base.fault:
            why = "It holds people, keys or reviewed answers." if base.precious else "What it holds is made again by itself; until then it is not there."
            yield Finding("database_damaged", "problem" if base.precious else "warning", base.fault, why, base.remedy)


def log_does_not_shrink(facts: Facts) -> Iterator[Finding]:
    """A write-ahead log that somebody's reading keeps from being cut."""
    for base in facts.bases:
        if base.wal_bytes > WAL_BYTES:
            yield Finding(
                "database_log_grows", "warning", f"The write-ahead log of {base.name} has {base.wal_bytes >> 20} MB; {WAL_BYTES >> 20} MB is the most that is usual.",
                "It fills the disk, and every page that reads this file becomes slower.",
                f"End programs that hold the file open (`fuser {facts.data_dir}/{base.name}` finds them), or restart the service.",
            )  # fmt: skip


def backup_old(facts: Facts) -> Iterator[Finding]:
    """No backup of what cannot be made again, or an old one."""
    names = [base.name for base in facts.bases if base.precious and base.size_bytes]
    age = None if facts.backup_at is None else (facts.now - facts.backup_at) / DAY_S
    if names and (age is None or age > BACKUP_DAYS):
        made = "There is no backup" if age is None else f"The last backup is {age:.0f} days old"
        yield Finding(
            "backup_old", "warning", f"{made} of {' and '.join(names)}; one in {BACKUP_DAYS} days is meant.",
            "When the disk fails, people, keys and reviewed answers are gone.",
            "`appliance backup create`"
            + ", also while the service runs; copy that folder to another disk.",
        )  # fmt: skip


def models_changed(facts: Facts) -> Iterator[Finding]:
    """Models that cannot be used, or whose files are not those that were checked."""
    for model in facts.models:
        if model.fault:
            yield Finding(
                "model_unusable", "problem" if model.served else "warning", f"The model {model.name} cannot be used: {model.fault}",
                "It cannot be loaded." if not model.served else "It is to be served, and at the next start it is not.",
                f"Add it again: `appliance models remove {model.name}`, then `appliance models add`.",
            )  # fmt: skip
        elif model.changed:
            yield Finding(
                "model_changed", "warning", f"Of the model {model.name}, {', '.join(model.changed)} changed since its hash was taken; none should.",
                "If the content is another one, the model is refused at the next start.", f"`appliance models verify {model.name}`",
            )  # fmt: skip


def models_unserved(facts: Facts) -> Iterator[Finding]:
    """Large models that were added and that nobody can use. The ONNX form of a served model may be the one that runs."""
    served = {model.name for model in facts.models if model.served}
    for model in facts.models:
        if not (model.name.removesuffix(TWIN) in served or model.shipped or model.fault) and model.size_bytes > LARGE_BYTES:
            yield Finding(
                "model_unserved", "note", f"The model {model.name} takes {gigabytes(model.size_bytes)} on the disk and is not served.",
                "It takes space that backups, other models and remembered answers could use.",
                f"Serve it on the page Models, or `appliance models remove {model.name}`.",
            )  # fmt: skip


def folder_not_ours(facts: Facts) -> Iterator[Finding]:
    """A data folder that cannot be written, and files in it that belong to somebody else, as they do after a command as root."""
    if facts.writable is False:
        yield Finding(
            "folder_not_writable", "problem", f"The data folder {facts.data_dir} cannot be written; it belongs to the user with the number {facts.uid}.",
            "Nothing can be kept: no key, no setting, no remembered answer.", f"Give it to the user of the service: `chown -R appliance: {facts.data_dir}`",
        )  # fmt: skip
    strange = [kept.path for kept in facts.kept if kept.uid != facts.uid and kept.path.startswith(facts.data_dir)]
    if strange:
        more = f" and {len(strange) - 3} more" if len(strange) > 3 else ""
        yield Finding(
            "files_of_others", "problem", f"{', '.join(strange[:3])}{more} do not belong to the user of {facts.data_dir} (number {facts.uid}).",
            "The service cannot write them, and what should be kept is lost.", f"`chown -R --reference={facts.data_dir} {facts.data_dir}`",
        )  # fmt: skip


def secrets_readable(facts: Facts) -> Iterator[Finding]:
    """Files with secrets, and the data folder, that everybody on the box can open."""
    for kept in facts.kept:
        if kept.secret and kept.mode & 0o007:
            yield Finding(
                "readable_by_everybody", "problem", f"{kept.path} has the mode {kept.mode & 0o777:03o}; the last digit must be 0.",
                "Every user and every program of this box can read keys, names or questions.", f"`chmod o-rwx {kept.path}`",
            )  # fmt: skip


def certificate_ends(facts: Facts) -> Iterator[Finding]:
    """The TLS certificate has ended, ends soon or cannot be read."""
    if facts.certificate is None:
        return
    path = facts.certificate.path
    why, remedy = "Browsers and programs refuse to talk to the box.", f"Put a new certificate at {path} and its key beside it, then restart the service."
    if facts.certificate.ends_at is None:
        yield Finding("certificate_unreadable", "problem", f"The certificate {path} cannot be read: {facts.certificate.fault}.", why, remedy)
        return
    days = (facts.certificate.ends_at - facts.now) / DAY_S
    if days < CERTIFICATE_DAYS:
        when = f"ends in {days:.0f} days" if days > 0 else f"has ended {-days:.0f} days ago"
        yield Finding(
            "certificate_ends", "problem" if days <= 0 else "warning", f"The certificate {path} {when}; {CERTIFICATE_DAYS} days should be left.", why, remedy,
        )  # fmt: skip


def errors_logged(facts: Facts) -> Iterator[Finding]:
    """The service wrote errors into its log."""
    if facts.log_errors:
        last = facts.log_errors[-1].splitlines()[0][:300]
        yield Finding(
            "errors_logged", "warning", f"The log has {len(facts.log_errors)} errors of the last day; 0 is right. The last one: {last}",
            "Something did not work, or was lost.", "Read them on the page System, or with `journalctl -u appliance --since -1day`; each says what to do.",
        )  # fmt: skip


RULES = (
    configuration_invalid, open_to_everybody, port_taken, hostname_unknown, units_failed, engines_failed, engines_restarted, databases_damaged,
    log_does_not_shrink, backup_old, models_changed, models_unserved, folder_not_ours, secrets_readable, certificate_ends, errors_logged,
)  # fmt: skip
