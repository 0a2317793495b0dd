"""install.sh: flags, preflight, cache key, repair of a killed run. Slow steps are stubs; see README.md."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
BASH = shutil.which("bash")

pytestmark = pytest.mark.process

# Steps in the order they run. Each stub does what the next step looks for, and no more.
STUBS = """
note() { echo "$1" >>"$NOTES"; if [[ ${STOP_AT:-} == "$1" ]]; then touch "$NOTES.stopped"; sleep 60; fi; }
can_fetch() { return 0; }
check_compiler() { :; }
free_memory_mb() { echo 8000; }
free_disk_mb() { echo 80000; }
make_tools() { note make_tools; }
build_llama() { note build_llama; touch "$WHEELS/llama_cpp_python-$(llama_version)-py3-none-any.whl"; }
fetch_wheels() { note fetch_wheels; touch "$WHEELS_COMPLETE"; }
make_fresh_venv() {
    note make_fresh_venv
    rm -rf "$VENV"
    mkdir -p "$VENV/bin"
    ln -s "$PY" "$VENV/bin/python"
}
install_project() {
    note install_project
    printf '#!/bin/sh\\necho "served from $PWD:" "$@"\\n' >"$VENV/bin/appliance"
    chmod +x "$VENV/bin/appliance"
}
check_install() { note check_install; [[ ! -e $ROOT/broken ]] || { echo "the reason it broke"; return 1; }; }
"""
FIRST_RUN = "make_tools build_llama fetch_wheels make_fresh_venv install_project check_install".split()


def ran(command: list[str], env: dict[str, str], folder: Path | str) -> subprocess.CompletedProcess:
    return subprocess.run(command, env=env, cwd=folder, text=True, capture_output=True, timeout=60)


class Box:
    """A checkout, a home and a PATH for one test."""

    def __init__(self, folder: Path):
        self.root = folder / "a check out"
        self.root.mkdir()
        for name in ("install.sh", "pyproject.toml", "CHANGELOG.md"):
            shutil.copy(CHECKOUT / name, self.root / name)
        self.cache = folder / "wheel cache"
        self.notes = folder / "notes"
        self.elsewhere = folder / "elsewhere"
        self.elsewhere.mkdir()
        self.cpuinfo = folder / "cpuinfo"
        self.cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu sse2 avx2 fma\n")
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder / "home"),
            "APPLIANCE_WHEEL_CACHE": str(self.cache),
            "NOTES": str(self.notes),
            "PYTHON": sys.executable,
        }

    def command(self, script: str) -> list[str]:
        source = f'. "{self.root}/install.sh"; CPUINFO="{self.cpuinfo}"\n'
        return [BASH, "-c", source + STUBS + script, "install.sh"]

    def bash(self, script: str, **env: str) -> subprocess.CompletedProcess:
        """Sources install.sh with the stubs and runs script in another folder."""
        return ran(self.command(script), self.env | env, self.elsewhere)

    def start(self, script: str, **env: str) -> subprocess.Popen:
        """The same without waiting, in a process group of its own."""
        return subprocess.Popen(
            self.command(script), env=self.env | env, cwd=self.elsewhere, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def wait_until_stopped(self) -> None:
        """Until the stub named by STOP_AT sleeps."""
        deadline = time.monotonic() + 30
        while not Path(f"{self.notes}.stopped").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def install(self, *flags: str, **env: str) -> subprocess.CompletedProcess:
        return self.bash("main " + " ".join(f"'{flag}'" for flag in flags), **env)

    def steps(self) -> list[str]:
        """The stubs that ran since the last call."""
        steps = self.notes.read_text().split() if self.notes.exists() else []
        self.notes.unlink(missing_ok=True)
        return steps


@pytest.fixture
def box(tmp_path):
    return Box(tmp_path)


# -------------------- flags


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--user", "--fast"], "unknown flag: --fast"),
        ([], "say where to install: --user"),
        (["--run", "--user"], "before --run"),
        (["--user", "--extra"], "--extra needs a name"),
        (["--user", "--extra", "tset"], "unknown extra: tset"),
        (["--user", "stray"], "unknown flag: stray"),
    ],
)
def test_wrong_usage_exits_64_and_changes_nothing(box, flags, said):
    result = box.install(*flags)
    assert result.returncode == 64
    assert said in result.stderr and "usage: ./install.sh" in result.stderr
    assert not box.cache.exists() and not (box.root / ".venv").exists()


def test_help_is_printed_on_stdout(box):
    result = box.install("--help")
    assert result.returncode == 0 and "--run" in result.stdout and not result.stderr


def test_run_as_a_program_needs_no_particular_folder(box):
    result = ran([box.root / "install.sh", "--help"], box.env, "/")
    assert result.returncode == 0 and result.stdout.startswith("usage:")


def test_what_follows_run_reaches_serve_untouched(box):
    result = box.install("--user", "--run", "--model", "my model.gguf", "--port", "9")
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith(f"served from {box.elsewhere}: serve --model my model.gguf --port 9\n")


def test_service_started_by_run_does_not_hold_the_lock(box):
    serve = '#!/bin/sh\nflock -n "$APPLIANCE_WHEEL_CACHE/.lock" echo the lock is free\n'
    (box.root / "serve").write_text(serve)
    check_install = 'check_install() { install -m 755 "$ROOT/serve" "$VENV/bin/appliance"; }\n'
    result = box.bash(check_install + "main --user --run")
    assert result.stdout.endswith("the lock is free\n")


# -------------------- preflight

ORDINARY_TOOLS = "bash sh cat sed awk grep sort tr cut paste head uname dirname sha256sum".split()
BUILD_TOOLS = "gcc g++ cmake ninja make".split()


class Tools:
    """A folder for PATH: ordinary tools, fake build tools and a fake Python."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir()
        for name in ORDINARY_TOOLS:
            (folder / name).symlink_to(shutil.which(name))
        for name in BUILD_TOOLS:
            self.program(name, "exit 0")
        self.python("")

    def program(self, name: str, body: str) -> None:
        path = self.folder / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def python(self, lie: str, name: str = "python3") -> None:
        """The real interpreter, told a lie first."""
        script = f"import sys; sys.argv.pop(0); {lie or 'pass'}; exec(sys.argv[0])"
        real = f'exec "{sys.executable}"'
        self.program(name, f'[ "$2" = -c ] || {real} "$@"\n{real} -I -c "{script}" "$3"')

    def without(self, *names: str) -> None:
        for name in names:
            (self.folder / name).unlink()


@pytest.fixture
def path(tmp_path):
    return Tools(tmp_path / "bin")


# The real check_compiler, unlike the other tests.
PREFLIGHT = """
. "$0"
can_fetch() { return "${OFFLINE:-0}"; }
free_memory_mb() { echo "${MEMORY_MB:-8000}"; }
free_disk_mb() { echo "${DISK_MB:-80000}"; }
main --user
"""


def preflight(box, path, **env):
    del box.env["PYTHON"]
    command = [BASH, "-c", PREFLIGHT.replace("$0", f"{box.root}/install.sh")]
    env = box.env | {"PATH": str(path.folder)} | env
    result = ran(command, env, box.elsewhere)
    assert result.returncode == 69, result.stdout + result.stderr
    assert "nothing was changed" in result.stderr
    assert not box.cache.exists() and not (box.root / ".venv").exists()
    return result.stderr


def test_missing_compiler_is_named_with_its_package(box, path):
    path.without("g++", "gcc")
    said = preflight(box, path)
    assert "no C and C++ compiler" in said and said.endswith("apt-get install g++\n")


def test_compiler_without_headers_is_found_out(box, path):
    path.program("g++", "exit 1")
    assert "does not compile a small C++17 program" in preflight(box, path)


def test_make_alone_is_enough_to_build(box, path):
    path.without("ninja", "g++")
    assert "ninja" not in preflight(box, path)


def test_missing_venv_names_the_package_of_that_interpreter(box, path):
    path.python("sys.modules['ensurepip'] = None")
    said = preflight(box, path)
    assert "cannot make virtual environments" in said and "apt-get install python3-venv\n" in said


def test_old_python_is_named_with_its_version(box, path):
    path.python("sys.version_info = (3, 9, 2)")
    assert "Python 3.11 or newer is needed; this machine has 3.9" in preflight(box, path)


def test_newer_python_beside_an_old_one_is_taken(box, path):
    path.python("sys.version_info = (3, 9, 2)")
    path.python("", name="python3.12")
    path.without("cmake")
    assert "Python" not in preflight(box, path)


def test_no_python_at_all(box, path):
    path.without("python3")
    said = preflight(box, path)
    assert "no Python" in said and "apt-get install python3 python3-venv\n" in said


def test_every_problem_is_said_at_once_with_one_apt_line(box, path):
    path.without("g++", "gcc", "cmake", "ninja", "make")
    path.python("sys.modules['ensurepip'] = None")
    said = preflight(box, path, OFFLINE="1", MEMORY_MB="200", DISK_MB="500")
    for words in ("virtual environments", "compiler", "no cmake", "no ninja and no make", "200 MB of memory",
                  "500 MB of disk", "no package index"):
        assert words in said
    assert said.endswith("apt-get install cmake g++ ninja-build python3-venv\n")
    assert said.count("apt-get") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="packages are installed as root")
def test_root_may_let_it_install_the_missing_packages(box, path):
    path.without("cmake")
    for name in "mkdir tail rm mktemp flock ln".split():
        (path.folder / name).symlink_to(shutil.which(name))
    path.program("apt-get", f'echo "$@" >>"{box.notes}"; ln -sf ninja "{path.folder}/cmake"')
    del box.env["PYTHON"]
    box.env["PATH"] = str(path.folder)
    script = box.command("main --user --apt")[2].replace("check_compiler() { :; }\n", "")
    stop = "make_tools() { exit 5; }\n"
    result = ran([BASH, "-c", script.replace("main --user", stop + "main --user")], box.env, box.elsewhere)
    assert "✓ system packages: cmake" in result.stdout and "✗ tools to build with" in result.stdout
    assert box.steps() == ["update", "install", "-y", "--no-install-recommends", "cmake"]


def test_cached_wheels_need_no_compiler_and_no_network(box, path):
    assert box.install("--user").returncode == 0
    shutil.rmtree(box.root / ".venv")
    result = box.bash("check_compiler() { problem compiler; }; can_fetch() { return 1; }; main --user")
    assert result.returncode == 0, result.stderr


# -------------------- the cache key


def key(box, **env):
    return box.bash('wheel_key "$(python_tag "$PYTHON")"', **env).stdout


def test_wheel_of_another_cpu_is_never_used(box):
    first = key(box)
    assert first.startswith("llama_cpp_python-0.") and "cpython-3" in first
    box.cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu sse2 avx2 fma avx512f\n")
    assert key(box) != first


def test_order_of_flags_and_mitigations_of_a_new_kernel_do_not_change_the_key(box):
    first = key(box)
    box.cpuinfo.write_text("flags\t\t: fma avx2 fpu sse2 md_clear ibrs_enhanced\n" * 2)
    assert key(box) == first


def test_arm_features_change_the_key(box):
    box.cpuinfo.write_text("Features\t: fp asimd\nCPU part\t: 0xd05\n")
    first = key(box)
    box.cpuinfo.write_text("Features\t: fp asimd asimddp i8mm\nCPU part\t: 0xd05\n")
    assert key(box) != first


def test_build_flags_of_the_user_change_the_key(box):
    assert key(box, CMAKE_ARGS="-DGGML_OPENMP=OFF") != key(box)


def test_box_with_another_cpu_builds_anew(box):
    assert box.install("--user").returncode == 0
    box.steps()
    box.cpuinfo.write_text("flags\t\t: fpu sse2\n")
    assert box.install("--user").returncode == 0
    assert box.steps() == FIRST_RUN


# -------------------- again, killed, broken


def test_first_run_does_every_step_with_a_tick_each_and_the_second_none(box):
    first = box.install("--user")
    assert first.returncode == 0, first.stderr
    assert box.steps() == FIRST_RUN
    assert first.stdout.count("✓") == len(FIRST_RUN) + 1
    second = box.install("--user")
    assert second.returncode == 0 and box.steps() == []
    assert "installed in .venv already" in second.stdout


@pytest.mark.parametrize(
    ("killed_in", "signal_number"),
    [(step, signal.SIGKILL) for step in FIRST_RUN]
    + [("build_llama", signal.SIGINT), ("install_project", signal.SIGTERM)],
)
def test_killed_run_is_repaired_by_the_next(box, killed_in, signal_number):
    run = box.start("main --user", STOP_AT=killed_in)
    box.wait_until_stopped()
    os.killpg(run.pid, signal_number)
    run.communicate(timeout=30)
    assert run.returncode != 0
    box.steps()

    result = box.install("--user")
    assert result.returncode == 0, result.stderr
    again = box.steps()
    assert again[-3:] == ["make_fresh_venv", "install_project", "check_install"]
    assert "build_llama" not in again or killed_in in ("make_tools", "build_llama")
    assert not list(box.cache.glob("work.*"))


def test_failing_step_shows_its_log_and_where_it_is(box):
    (box.root / "broken").touch()
    result = box.install("--user")
    assert result.returncode == 70
    assert "✗ checked that it starts" in result.stdout
    assert "the reason it broke" in result.stderr and str(box.cache / "install.log") in result.stderr
    (box.root / "broken").unlink()
    assert box.install("--user").returncode == 0


def test_changed_project_is_installed_into_the_same_environment(box):
    box.install("--user")
    box.steps()
    with (box.root / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    assert box.install("--user").returncode == 0
    assert box.steps() == ["install_project", "check_install"]


def test_new_version_in_the_changelog_is_installed(box):
    box.install("--user")
    box.steps()
    (box.root / "CHANGELOG.md").write_text("# Changelog\n\n## 9.8.7\n")
    assert "appliance 9.8.7 is ready" in box.install("--user").stdout
    assert box.steps() == ["install_project", "check_install"]


def test_moved_checkout_gets_a_new_environment(box):
    box.install("--user")
    box.steps()
    box.root = box.root.rename(box.root.with_name("moved"))
    assert box.install("--user").returncode == 0
    assert box.steps() == ["make_fresh_venv", "install_project", "check_install"]


def test_environment_made_by_hand_is_replaced(box):
    (box.root / ".venv" / "bin").mkdir(parents=True)
    (box.root / ".venv" / "bin" / "appliance").write_text("old")
    assert box.install("--user").returncode == 0
    assert box.steps() == FIRST_RUN


def test_extras_of_an_earlier_run_stay(box):
    box.install("--user", "--extra", "bench")
    box.steps()
    assert box.install("--user").returncode == 0
    assert box.steps() == []
    assert box.install("--user", "--test").returncode == 0
    assert box.steps() == ["make_tools", "fetch_wheels", "install_project", "check_install"]
    assert (box.root / ".venv/.appliance-install").read_text().endswith("extra test\nextra bench\n")


def test_works_under_a_strict_umask(box):
    result = box.bash("umask 077; main --user")
    assert result.returncode == 0, result.stderr
    assert stat.S_IMODE((box.root / ".venv").stat().st_mode) == 0o700


def test_second_installer_waits_for_the_first(box):
    first = box.start("main --user", STOP_AT="fetch_wheels")
    box.wait_until_stopped()
    second = box.start("main --user")
    assert "another install.sh is at work" in second.stdout.readline()
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate(timeout=30)
    said, _ = second.communicate(timeout=30)
    assert second.returncode == 0 and "is ready" in said
