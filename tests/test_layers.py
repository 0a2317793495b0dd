"""The house plan's import rules, read from the source without running it."""

from __future__ import annotations

import ast
import json
from functools import cache
from pathlib import Path

import pytest
from fakes import ROOT, python

PACKAGE = ROOT / "appliance"
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
LAYERS = [
    {"types", "errors", "clock"},
    {"config", "logs", "metrics", "systemd", "storage", "history", "saved_settings", "jobs", "uploads", "data_folder", "spreadsheet"},
    {"db", "manifest", "integrity", "gguf_header", "catalog", "certificates", "trials", "forms", "intake", "engine", "cache"},
    {"auth", "tls", "tls_context", "access", "usage", "routing", "admission", "recall", "trail"},
    {"pipeline", "meaning", "audit", "renewal", "fleet", "bundle", "doctor", "backup"},
    {"http"},
    {"services", "factory"},
    {"watchdog", "installer"},
    {"server", "cli"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
BASE = {"appliance.types", "appliance.errors", "appliance.clock"}
PURE = {f"appliance.engine.{name}" for name in ("scheduler", "slots", "sampling", "text", "messages", "encoder_plan", "entities")}
ONLY_IMPORTER = {
    "llama_cpp": {f"appliance.engine.llama_{part}" for part in ("backend", "context", "encoder", "lane", "library", "log", "model")} | {"appliance.factory.gguf_words", "appliance.factory.quantize"},
    "torch": {f"appliance.factory.{part}" for part in ("classifier", "distil", "pair_verifier", "starter", "student", "tutor", "understanding", "verifier")},
    "gunicorn": {"appliance.server"},
    "cryptography": {"appliance.backup.encryption", "appliance.certificates", "appliance.bundle.archive", "appliance.bundle.signing"},
    "faiss": {"appliance.cache.index"},
    "onnxruntime": {f"appliance.engine.onnx_{part}" for part in ("decoder", "past", "session")}
    | {"appliance.factory.classifier"}
    | {f"appliance.factory.{part}_onnx" for part in ("convert", "evaluate", "quantize")},
    "transformers": {f"appliance.factory.{part}" for part in ("classifier", "convert_onnx", "tutor", "verifier")},
    "optimum": {"appliance.factory.convert_onnx"},
    "huggingface_hub": {"appliance.intake.hub", "appliance.factory.convert_onnx"},
}
NOT_IN_THE_CHILD = {"flask", "werkzeug", "gunicorn", "sqlite3", "sqlite_utils", "faiss"}


@cache
def imports(name: str, top_level_only: bool = False) -> frozenset[str]:
    """Modules that a module imports: ours by full name, others by the first part of theirs."""
    tree = ast.parse(FILES[name].read_text("utf-8"))
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name}: imports are written in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for full in names:
            if full.split(".")[0] != "appliance":
                found.add(full.split(".")[0])
                continue
            while full not in FILES:
                full = full.rpartition(".")[0]
            found.add(full)
    return frozenset(found - {"appliance"})


def ours(name: str, **how: bool) -> set[str]:
    return {other for other in imports(name, **how) if other in FILES}


def layer(name: str) -> str:
    return name.split(".")[1]


MODULES = [name for name in FILES if name != "appliance"]


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_down_the_layers_only(name):
    assert layer(name) in RANK, f"{name} has no place in the house plan"
    for other in ours(name):
        assert RANK[layer(other)] <= RANK[layer(name)], f"{name} imports {other} from above"


def test_no_modules_import_each_other_in_a_circle():
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> None:
        assert name not in path, " -> ".join([*path, name])
        if name not in done:
            for other in ours(name, top_level_only=True):
                walk(other, [*path, name])
            done.add(name)

    for name in MODULES:
        walk(name, [])
    assert done == set(MODULES)


@pytest.mark.parametrize("name", sorted(PURE))
def test_the_pure_modules_of_the_engine_know_only_plain_values(name):
    assert ours(name) <= BASE


def test_sequence_and_loop_know_no_engine():
    allowed = BASE | PURE | {f"appliance.engine.{n}" for n in ("backend", "sequence", "loop")}
    for name in ("sequence", "loop"):
        assert ours(f"appliance.engine.{name}") <= allowed
    allowed |= {f"appliance.engine.{n}" for n in ("encoder", "encoder_loop")}
    for name in ("encoder", "encoder_loop"):
        assert ours(f"appliance.engine.{name}") <= allowed


def test_the_engine_child_never_sees_the_web_or_the_database():
    reached, todo = set(), ["appliance.engine.worker"]
    while todo:
        name = todo.pop()
        if name not in reached:
            reached.add(name)
            todo += ours(name)
    wanted = ("loop", "llama_backend", "fake_backend", "encoder_loop", "onnx_encoder", "llama_encoder", "fake_encoder")
    assert {f"appliance.engine.{name}" for name in wanted} <= reached
    for name in reached:
        assert not imports(name) & NOT_IN_THE_CHILD, f"{name} is part of the engine child"
        assert layer(name) in {"engine", "types", "errors", "clock"}, f"{name} is part of the engine child"


@pytest.mark.parametrize("library", sorted(ONLY_IMPORTER))
def test_a_large_library_has_its_only_importers(library):
    assert {name for name in MODULES if library in imports(name)} <= ONLY_IMPORTER[library]


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_no_longer_than_500_lines_and_has_a_telling_name(name):
    assert len(FILES[name].read_text("utf-8").splitlines()) <= 500
    assert not set(name.split(".")) & {"utils", "helpers", "common", "manager", "util", "misc"}


IMPORT_ALL = """
import importlib, json, os, sys, sysconfig, threading
for third in ("numpy", "jinja2.sandbox", "jinja2.ext", "flask", "psutil", "gunicorn.app.base", "llama_cpp", "onnxruntime", "gguf", "tokenizers", "torch", "logging", "subprocess"):
    try:
        importlib.import_module(third)
    except ImportError:
        pass
library = tuple(map(os.path.realpath, {sys.prefix, sys.base_prefix, *sysconfig.get_paths().values()}))
opened, threads = [], threading.active_count()

def hook(event, args):
    if event == "open" and isinstance(args[0], str):
        path = os.path.realpath(args[0])
        if not path.endswith((".py", ".pyc", ".so")) and ".pyc." not in path and not path.startswith(library):
            opened.append(args[0])
    elif event in ("socket.connect", "socket.bind", "subprocess.Popen", "os.fork"):
        opened.append(event)

sys.addaudithook(hook)
for name in json.loads(sys.argv[1] if len(sys.argv) > 1 else os.environ["MODULES"]):
    before = len(opened)
    importlib.import_module(name)
    assert len(opened) == before, f"importing {name} opens {opened[before:]}"
    assert threading.active_count() == threads, f"importing {name} starts a thread"
print("done")
"""


def test_importing_any_module_opens_no_file_and_starts_no_thread():
    names = [name for name in MODULES if not name.endswith("__main__")]
    assert python(IMPORT_ALL, MODULES=json.dumps(names)).strip() == "done"


def test_the_engine_child_loads_nothing_of_the_web():
    code = "import appliance.engine.worker, appliance.engine.loop, appliance.engine.fake_backend, appliance.engine.fake_encoder, sys, json; print(json.dumps(list(sys.modules)))"
    loaded = {name.split(".")[0] for name in json.loads(python(code))}
    assert not loaded & NOT_IN_THE_CHILD
    assert not loaded & {"llama_cpp", "onnxruntime", "tokenizers"}, "the fake engine starts without the real ones"


def test_this_file_has_seen_the_package():
    assert {"appliance.engine.worker", "appliance.pipeline"} <= set(MODULES)
    assert Path(FILES["appliance.types"]).name == "types.py"
