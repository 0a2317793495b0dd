"""The documentation says what is there, and nothing of the machine it was written on."""

from __future__ import annotations

import ast
import configparser
import io
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from fakes import ROOT

from appliance.cli import build_parser, docs
from appliance.config import SETTINGS
from appliance.errors import BY_CODE
from appliance.installer.__main__ import parser as installer

SOURCES = sorted((ROOT / "appliance").rglob("*.py"))
CODE = "\n".join(path.read_text("utf-8") for path in SOURCES)
INSTALL = (ROOT / "install.sh").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")
MADE_BY_TOOLS = {  # the folders that .gitignore names
    ROOT / line.strip("/")
    for line in (ROOT / ".gitignore").read_text("utf-8").splitlines()
    if line.startswith("/") and line.endswith("/")
}
SKIPPED = {".git", ".venv", "__pycache__", ".pytest_cache", ".ruff_cache", ".hypothesis"}


def wanted(path: Path) -> bool:
    """Whether a path belongs to the project rather than to a tool."""
    parts = path.relative_to(ROOT).parts
    return not (SKIPPED & set(parts) or any(part.endswith(".egg-info") for part in parts)
                or any(folder == path or folder in path.parents for folder in MADE_BY_TOOLS))


def tracked() -> list[Path]:
    """The project's files: git's list where there is one, else everything that no tool made."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
        paths = [ROOT / name for name in listed if name]
    except (OSError, subprocess.CalledProcessError):  # no git, or an unpacked archive
        paths = list(ROOT.rglob("*"))
    return sorted(path for path in paths if path.is_file() and not path.is_symlink() and wanted(path))


TRACKED = tracked()
PAGES = [path for path in TRACKED if path.suffix == ".md"]
FOLDERS = sorted(
    folder
    for top in ("appliance", "tests", "bench", "web", "systemd", "models")
    for folder in [ROOT / top, *(ROOT / top).rglob("*")]
    if folder.is_dir() and wanted(folder)
)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


# -- what the program writes -----------------------------------------------------------------------


@pytest.mark.parametrize("part", sorted(docs.PARTS))
def test_the_generated_parts_of_the_readme_are_current(part):
    stale = [sentence for sentence in docs.fill(README)[1] if part in sentence]
    assert not stale, f"{stale[0]}: run `make docs`"


def test_a_stale_part_is_named_then_written_then_current(tmp_path, capsys):
    page = tmp_path / "README.md"
    page.write_text(README.replace("| `queue_full` | 429", "| `queue_full` | 418"), "utf-8")
    assert docs.main(["--check"], page) == 65
    said = capsys.readouterr().err
    assert "the part errors is stale" in said and "make docs" in said and "settings" not in said
    assert docs.main(["--write"], page) == 0
    assert page.read_text("utf-8") == README
    assert docs.main(["--check"], page) == 0


def test_a_lost_marker_is_told_and_nothing_is_overwritten(tmp_path, capsys):
    page = tmp_path / "README.md"
    page.write_text(README.replace("<!-- end: errors -->", ""), "utf-8")
    before = page.read_text("utf-8")
    assert docs.main(["--write"], page) == 65
    assert page.read_text("utf-8") == before
    assert "<!-- end: errors -->" in capsys.readouterr().err


def test_every_exit_code_has_words():
    assert {kind.exit_code for kind in BY_CODE.values()} <= docs.EXIT_CODES.keys()


# -- what the README promises ----------------------------------------------------------------------


def flags_of(parser) -> set[str]:
    return {flag for action in parser._actions for flag in action.option_strings}


COMMANDS = docs.commands(build_parser())
SERVE = flags_of(COMMANDS["serve"])
CURL = {"--cacert"}
INSTALLER = set(re.findall(r"^ +(?:-h \| )?(--[a-z]+)\)", INSTALL, re.M))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.M | re.S)


def shell_lines() -> list[list[str]]:
    """The words of every command in the README's shell blocks, and of those written inside a sentence."""
    text = "\n".join(body for kind, body in BLOCKS if kind == "sh").replace("\\\n", " ")
    prose = re.sub(r"^```.*?^```", "", README, flags=re.M | re.S)
    spans = re.findall(r"`([^`\n]+)`", prose)
    inline = [code for code in spans if re.match(r"(\./install\.sh|make|appliance) ", code)]
    return [words for line in [*text.splitlines(), *inline] if (words := shlex.split(line, comments=True))]


def test_the_two_commands_are_there_word_for_word():
    assert "```sh\n./install.sh --user\n./install.sh --user --run\n```" in README


@pytest.mark.parametrize("words", shell_lines(), ids=" ".join)
def test_every_command_of_the_readme_exists(words):
    program, flags = words[0], [word.partition("=")[0] for word in words if word.startswith("-")]
    if program == "./install.sh":
        at = words.index("--run") if "--run" in words else len(words)
        assert {w for w in words[1:at + 1] if w.startswith("-")} <= INSTALLER
        assert {w for w in words[at + 1:] if w.startswith("-")} <= SERVE
    elif program == "sh":
        assert words[1].endswith(".run") and set(words[2:]) <= flags_of(installer()) | {"repair", "verify"}
    elif program in ("appliance", ".venv/bin/appliance"):
        command = next(word for word in words[1:] if not word.startswith("-")) if len(words) > 2 else words[1]
        for more in words[2:4]:
            if f"{command} {more}" in COMMANDS:
                command += f" {more}"
        if command.startswith("-"):
            assert command in flags_of(build_parser())
        else:
            assert set(flags) <= flags_of(COMMANDS[command])
    elif program == "make":
        assert set(words[1:]) <= TARGETS
    else:
        assert program == "curl"


def test_every_flag_in_a_sentence_is_a_flag():
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", re.sub(r"<!--.*?-->", "", README)))
    assert named <= CURL | INSTALLER | flags_of(installer()) | flags_of(build_parser()).union(*map(flags_of, COMMANDS.values()))


def test_compiler_flags_named_in_the_readme_are_the_installers():
    for flag in re.findall(r"`(-f[a-z-]{3,}|-D[A-Z_]+=\w+)`", README):
        assert flag in INSTALL, f"install.sh does not pass {flag}"


def test_examples_in_other_languages_can_be_read():
    for kind, body in BLOCKS:
        if kind == "python":
            ast.parse(body)
        elif kind == "toml":
            assert set(tomllib.loads(body)) <= {setting.name for setting in SETTINGS}


def test_metrics_routes_and_messages_of_the_readme_exist():
    for metric in re.findall(r"`(appliance_\w+)`", README):
        assert f'"{metric}"' in CODE, metric
    routes = re.findall(r'@routes\.(get|post)\("([^"]+)"\)', CODE)
    routes = {(method.upper(), re.sub(r"<(path|int):\w+>", "{id}", path)) for method, path in routes}
    table = set(re.findall(r"^\| `(GET|POST) (\S+)` \|", README, re.M))
    assert table <= routes
    routes -= {("GET", "/static/{id}"), ("POST", "/admin/sign-out")}  # parts of pages
    assert {path.removeprefix("/v1") for _, path in routes} == {path.removeprefix("/v1") for _, path in table}
    trouble = README.partition("## Troubleshooting")[2].partition("\n## ")[0]
    messages = re.findall(r"^\| `([^`]+)` \|", trouble, re.M)
    assert len(messages) > 10
    for message in messages:
        assert message in CODE + INSTALL, f"no message of the program reads {message!r}"


def test_settings_that_do_nothing_yet_are_named():
    """A setting that nothing reads is said to have no effect, and one that is read is not."""
    said = re.search(r"^(`[^\n]*`) (?:are accepted and have|is accepted and has) no effect yet", README, re.M)
    idle = set(re.findall(r"`(\w+)`", said[1])) if said else set()
    read = set(re.findall(r"\b(?:config|fresh)\.(\w+)", CODE)) | set(re.findall(r'\bvalues\["(\w+)"\]', CODE))
    if not re.search(r"(?<!def )\bdata_dir\(", CODE):
        read.discard("data_dir")  # only its own function reads it, and nobody calls that
    unread = {setting.name for setting in SETTINGS} - read
    assert unread - {"config"} == idle


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if urlsplit(target).scheme:
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists() and ROOT in there.parents, f"{target} leads nowhere"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", there.read_text("utf-8"), re.M)
            assert anchor in {re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-") for h in headings}


# -- what everything says about itself -------------------------------------------------------------


def public(tree: ast.AST, inside: str = "") -> list[tuple[str, ast.AST]]:
    """Classes and functions without a leading underscore, methods included."""
    found = []
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in getattr(tree, "body", []):
        if isinstance(node, kinds) and not node.name.startswith("_"):
            found.append((f"{inside}{node.name}", node))
            if isinstance(node, ast.ClassDef):
                found += public(node, f"{inside}{node.name}.")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_everything_public_has_a_docstring(path):
    tree = ast.parse(path.read_text("utf-8"))
    if tree.body:
        assert ast.get_docstring(tree), "the module says nothing about itself"
    assert [name for name, node in public(tree) if not ast.get_docstring(node)] == []


@pytest.mark.parametrize("folder", FOLDERS, ids=name_of)
def test_every_folder_has_a_readme(folder):
    readme = folder / "README.md"
    assert readme.is_file() and readme.read_text("utf-8").strip(), "a folder says what it is for"


# -- the version -----------------------------------------------------------------------------------


def test_the_changelogs_first_heading_is_the_version():
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    first = re.search(r"^## (.+)$", changelog, re.M)[1]
    source = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["version"]
    assert source["path"] == "CHANGELOG.md"
    assert re.search(source["pattern"], changelog, re.M)["version"] == first  # what hatch reads
    assert version("appliance") == first, "run ./install.sh --user again"


# -- nothing of the machine it was written on ------------------------------------------------------

# Put together here, so that this file does not contain what it looks for.
PRIVATE = [re.compile(r"(?<![\w.])/" + start) for start in ("work/", "root/", "tmp/w")]


def index_hosts() -> set[str]:
    """Hosts and folders from which pip fetches packages here; the public index is nobody's secret."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    settings = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    parser = configparser.RawConfigParser(delimiters=("=",), strict=False)
    parser.read_file(io.StringIO("[pip]\n" + settings))
    keys = ("index-url", "find-links", "trusted-host")
    rows = [value for key, value in parser.items("pip") if key.endswith(keys)]
    found = set()
    for word in " ".join(rows).replace("'", " ").split():
        parts = urlsplit(word)
        found.add(parts.hostname or parts.path)
    names = {host for host in found if "." in host and not host.startswith((".", "/", "127."))}
    folders = {path for path in found if path.startswith("/") and path.strip("/").count("/") >= 1}
    return names - {"pypi.org", "files.pythonhosted.org"} | folders


def test_no_file_names_this_machine():
    texts = {}
    for path in TRACKED:
        try:
            texts[path] = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue  # weights, recordings
    assert ROOT / "README.md" in texts
    hosts = index_hosts()
    found = []
    for path, text in texts.items():
        found += [f"{name_of(path)}: {match[0]}" for p in PRIVATE if (match := p.search(text))]
        found += [f"{name_of(path)}: {host}" for host in hosts if host in text]
    assert not found, found
