"""The engine child: `python -m appliance.engine.worker FD SETTINGS`, started by the supervisor, never by a person.

It loads one model, says Ready, and runs the loop until its channel ends. SETTINGS is JSON with the fields of
`WorkerSettings`; secrets are never among them. Exit codes: 0 asked to stop, 65 the model cannot be served, 70 a fault.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from appliance.clock import monotonic
from appliance.engine.backend import Backend, Progress
from appliance.engine.channel import Channel, ChannelClosed
from appliance.engine.encoder import Encoder
from appliance.engine.encoder_loop import EncoderLoop
from appliance.engine.loop import Loop
from appliance.engine.messages import Booting, Ready, Refused
from appliance.errors import ApplianceError, ModelFileError


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Everything a child needs to know.

    engine: "fake", "onnx", or "llama" for what the path holds: a GGUF file, or the folder or model.onnx of an ONNX model.
    cpus: where its threads may run, empty for anywhere. shared: other children compute there too.
    """

    engine: str
    name: str
    path: str
    context_tokens: int
    sequences: int
    kv_tokens: int
    threads: int
    cpus: tuple[int, ...]
    batch_tokens: int
    stall_s: float
    store_bytes: int
    type_k: str = "f16"
    type_v: str = "f16"
    flash_attn: str = "auto"
    mlock: bool = False
    shared: bool = False
    fake_step_s: float = 0.0

    def to_json(self) -> str:
        """For the child's argv."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> WorkerSettings:
        """From the child's argv."""
        values = json.loads(text)
        values["cpus"] = tuple(values["cpus"])
        return cls(**values)


def build(settings: WorkerSettings, channel: Channel) -> Backend | Encoder:
    """Load the model the settings name, with the engine that fits its task. Raises ApplianceError when it cannot be served."""
    progress = _telling(channel)
    if settings.engine == "fake":
        return _fake(settings)
    if is_onnx(settings):
        return _onnx(settings, progress)
    return _llama(settings, progress)


def _fake(settings: WorkerSettings) -> Backend | Encoder:
    from appliance.engine.fake_backend import FakeBackend
    from appliance.engine.fake_encoder import FakeEncoder, is_fake_encoder

    if is_fake_encoder(settings.name):
        return FakeEncoder(settings.name, context_tokens=settings.context_tokens or 64, step_s=settings.fake_step_s)
    return FakeBackend(
        settings.name,
        sequences=settings.sequences,
        context_tokens=settings.context_tokens or 512,
        kv_tokens=settings.kv_tokens or None,
        step_s=settings.fake_step_s,
    )


def _onnx(settings: WorkerSettings, progress: Progress) -> Backend | Encoder:
    from appliance.engine.encoder_config import is_decoder

    path = Path(settings.path)
    folder = path.parent if path.suffix == ".onnx" else path
    values: dict[str, Any] = dict(name=settings.name, context_tokens=settings.context_tokens, threads=settings.threads)
    values |= {"cpus": settings.cpus, "progress": progress}
    if not is_decoder(folder):
        from appliance.engine.onnx_encoder import OnnxEncoder

        return OnnxEncoder(path, spin=not settings.shared, **values)
    from appliance.engine.onnx_decoder import OnnxDecoder

    return OnnxDecoder(folder, sequences=settings.sequences, kv_tokens=settings.kv_tokens, **values)


def _llama(settings: WorkerSettings, progress: Progress) -> Backend | Encoder:
    from appliance.engine.llama_backend import LlamaBackend
    from appliance.engine.llama_encoder import LlamaEncoder
    from appliance.engine.llama_model import LlamaModel

    model = LlamaModel(Path(settings.path), mlock=settings.mlock, progress=progress)
    values: dict[str, Any] = dict(name=settings.name, context_tokens=settings.context_tokens, threads=settings.threads, progress=progress)
    if model.makes_embeddings:
        return LlamaEncoder(model, **values)
    return LlamaBackend(
        model,
        sequences=settings.sequences,
        kv_tokens=settings.kv_tokens,
        batch_tokens=settings.batch_tokens,
        type_k=settings.type_k,
        type_v=settings.type_v,
        flash_attn=settings.flash_attn,
        **values,
    )


def is_onnx(settings: WorkerSettings) -> bool:
    """Whether onnxruntime is to run the model."""
    path = Path(settings.path)
    return settings.engine == "onnx" or path.suffix == ".onnx" or (path / "model.onnx").exists()


def _telling(channel: Channel) -> Progress:
    return lambda phase, share: channel.send(Booting(phase, round(share, 3)))


def run(channel: Channel, settings: WorkerSettings) -> int:
    """Serve until told to stop. Returns the exit code."""
    try:
        engine = build(settings, channel)
    except ApplianceError as error:
        channel.send(Refused(error.to_wire()))
        return ModelFileError.exit_code
    info = asdict(engine.info) | {"cpus": settings.cpus, "threads": settings.threads}
    if engine.info.backend == "onnxruntime" and settings.threads == len(settings.cpus):
        os.sched_setaffinity(0, settings.cpus[:1])  # this thread computes too: beside its pinned fellows, not on top of one
    if isinstance(engine, Encoder):
        loop: Loop | EncoderLoop = EncoderLoop(engine, channel, monotonic)
    else:
        loop = Loop(
            engine,
            channel,
            monotonic,
            stall_s=settings.stall_s,
            batch_tokens=settings.batch_tokens,
            store_bytes=settings.store_bytes,
        )
    channel.send(Ready(info))
    while not loop.stopping:
        loop.step()
    engine.close()
    return 0


def main(argv: list[str]) -> int:
    """Entry point of the child."""
    # Ctrl-C in a terminal reaches the whole process group; the supervisor decides when a child goes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    channel = Channel(socket.socket(fileno=int(argv[1])))
    settings = WorkerSettings.from_json(argv[2])
    if settings.cpus:
        os.sched_setaffinity(0, settings.cpus)
    try:
        return run(channel, settings)
    except ChannelClosed:
        return 0  # the web worker is gone, and with it everybody who wanted an answer
    except Exception:
        traceback.print_exc()
        return 70


if __name__ == "__main__":
    code = main(sys.argv)
    sys.stdout.flush()
    sys.stderr.flush()
    # llama.cpp's and OpenMP's global destructors may run while their threads still spin: leave without them.
    os._exit(code)
