"""An archive to send to somebody who is to help: findings, facts, numbers and the end of the log, without anybody's words or names."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path

from appliance.access.service import RESERVED
from appliance.config import Config, data_dir
from appliance.doctor import data
from appliance.doctor.facts import Facts
from appliance.doctor.findings import examine
from appliance.doctor.redaction import GONE, Redactor
from appliance.doctor.service import RULES
from appliance.errors import InvalidRequest
from appliance.logs import RECENT
from appliance.storage import in_words, sync_folder
from appliance.usage import OTHERS

LAST_LINES = 2000
PRIVATE_SETTINGS = ("cache_share", "cache_exclude", "cache_epoch", "names")
"""Not secret on the box, but names of people and places."""
README = """\
What `appliance doctor` found on a box, for whoever helps. It was made to be sent: names of people, keys, network addresses,
questions and answers were taken out. Look through it all the same before you send it; it is all plain text.

findings.json   what is wrong, why it matters, what to do
facts.json      what was read: settings, hardware, kernel, disks, databases (sizes and numbers of rows), models, the unit
versions.json   installed packages
metrics.txt     the service's numbers, where it runs
log.txt         the last lines of the log; quoted words are left out
"""


def make(facts: Facts, config: Config, metrics: str, lines: Iterable[str], now: float) -> bytes:
    """A tar.gz. metrics: in Prometheus's text, "" for none. lines: of the log, the newest last. now: Unix seconds. Any thread.

    Reads the names that are to be left out; raises nothing where that is not possible."""
    redactor = Redactor(private_words(config, facts.hostname))
    settings = {name: GONE if name in PRIVATE_SETTINGS and value else value for name, value in facts.settings.items()}
    facts = replace(
        facts, settings=settings, config_error=redactor.message(facts.config_error), log_errors=tuple(map(redactor.message, facts.log_errors)), hostname=GONE,
    )  # fmt: skip
    found = {"version": facts.version, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)), "findings": [asdict(one) for one in examine(facts, RULES)]}
    packages = {dist.metadata["Name"]: dist.version for dist in metadata.distributions()}
    members = {
        "README.txt": README,
        "findings.json": _as_json(redactor.values(found)),
        "facts.json": _as_json(redactor.values(asdict(facts))),
        "versions.json": _as_json(packages),
        "metrics.txt": redactor.text(metrics),
        "log.txt": "\n".join(redactor.lines(list(lines)[-LAST_LINES:])) + "\n",
    }
    folder = f"appliance-doctor-{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}"
    return _packed({f"{folder}/{name}": text.encode("utf-8", "replace") for name, text in members.items()}, now)


def private_words(config: Config, hostname: str) -> set[str]:
    """What must be in no file of the archive, as far as it is known."""
    words = data.read_names(data_dir(config)) | {hostname, *config.api_key, *config.names, *config.cache_exclude, config.cache_epoch}
    words |= {part for share in config.cache_share for part in share.split(":")}
    try:
        lines = config.api_key_file.read_text("utf-8-sig", "replace").splitlines() if config.api_key_file else []
    except OSError:
        lines = []
    words |= {part for line in lines for part in (line.strip(), *map(str.strip, line.partition(":")))}
    return {word for word in words if word not in (*RESERVED, OTHERS, ":", "localhost", "appliance")}


def recent_lines() -> list[str]:
    """The log of this process, as it went to stderr."""
    return [f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.localtime(line.at))} {line.level:7} {part}" if not number else part
            for line in RECENT.lines() for number, part in enumerate(line.text.split("\n"))]  # fmt: skip


def write(path: Path, archive: bytes) -> None:
    """A new file that only its owner can read. Raises InvalidRequest where there is one already, StorageFailed, PermissionDenied."""
    try:
        number = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        raise InvalidRequest(f"{path} is there already.", param="bundle", remedy="Choose another name.") from None
    except OSError as error:
        raise in_words(error, f"Writing {path}", "Choose a file in a folder where you may write.") from None
    try:
        with open(number, "wb") as file:
            file.write(archive)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(path.parent)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise in_words(error, f"Writing {path}") from None


def _as_json(value: object) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n"


def _packed(members: dict[str, bytes], now: float) -> bytes:
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=now) as zipped, tarfile.open(fileobj=zipped, mode="w") as tar:
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size, about.mtime, about.mode = len(content), int(now), 0o600
            tar.addfile(about, io.BytesIO(content))
    return packed.getvalue()
