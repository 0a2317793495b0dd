#!/usr/bin/env bash
# Installs the appliance. `./install.sh --user` needs no root and touches two places only:
#   .venv        beside this file: the virtual environment
#   the cache    ${APPLIANCE_WHEEL_CACHE:-~/.cache/appliance/wheels}: built and fetched wheels, so that later runs take seconds
# In a bundle (see `appliance bundle`) it installs the service for the whole machine, as root and without a network; that part is in Python,
# in appliance/installer.
# Functions and a guard at the end: tests source this file and replace the slow ones.
set -euo pipefail

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
: "${HOME:=$(printf '%s' ~)}"          # a service may start us without HOME; the shell knows it from the password file
CACHE=${APPLIANCE_WHEEL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/appliance/wheels}
VENV=$ROOT/.venv
STAMP=$VENV/.appliance-install
LOG=$CACHE/install.log
CPUINFO=/proc/cpuinfo
BUILD_FLAGS="-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF${CMAKE_ARGS:+ $CMAKE_ARGS}"

# GCC up to 13 takes the stores to the tile configuration for dead and drops them, and llama.cpp then crashes in its
# first step on a CPU with AMX (ggml-org/llama.cpp pull 26954). Without dead store elimination the code is right.
BUILD_CXXFLAGS=${CXXFLAGS:-}
if grep -qsw amx_tile "$CPUINFO"; then BUILD_CXXFLAGS="-fno-dse${CXXFLAGS:+ $CXXFLAGS}"; fi

EX_USAGE=64 EX_UNAVAILABLE=69 EX_SOFTWARE=70

# ---------------------------------------------------------------- words

usage() {
    cat <<'END'
usage: ./install.sh --user [options]
       ./install.sh --user [options] --run [--model FILE] [other flags of `appliance serve`]
       ./install.sh --bundle FILE [--help]       for the whole machine, from a bundle; the same as: sh FILE

  --user         install for this user into .venv beside install.sh; no root needed
  --run          then start the service in the foreground; everything after --run goes to `appliance serve`
  --test         also install what the tests need (short for --extra test)
  --extra NAME   also install this extra of pyproject.toml: test, bench, factory; repeatable
  --apt          when root: install missing system packages with apt-get instead of only naming them
  --help         this text

Environment: PYTHON (interpreter to use), CMAKE_ARGS and CXXFLAGS (added to llama.cpp's build),
             APPLIANCE_WHEEL_CACHE (default ~/.cache/appliance/wheels)
Exit codes:  0 done, 64 wrong usage, 69 something is missing on this machine (nothing was changed), 70 a step failed
END
}

say() { printf '%s\n' "$*"; }
warn() { printf '%s\n' "$*" >&2; }

wrong_usage() {
    warn "install.sh: $*"
    usage >&2
    exit "$EX_USAGE"
}

# step TITLE COMMAND...: one tick a step. The command runs in a subshell with its output in the log.
step() {
    local title=$1 started=$SECONDS rc=0
    shift
    [[ ! -t 1 ]] || printf '… %s' "$title"
    printf '\n=== %s\n' "$title" >>"$LOG"
    set +e                             # not `if (...)` or `(...) ||`: bash ignores `set -e` inside those
    (set -e; "$@") >>"$LOG" 2>&1 </dev/null
    rc=$?
    set -e
    [[ ! -t 1 ]] || printf '\r\033[K'
    if ((rc == 0)); then
        say "✓ $title ($((SECONDS - started)) s)"
        return
    fi
    say "✗ $title (failed after $((SECONDS - started)) s)"
    warn "--- the last lines of its log:"
    tail -n 25 -- "$LOG" >&2
    warn "--- the whole log: $LOG"
    warn "Nothing is half done: run the same command again when the cause is gone."
    exit "$EX_SOFTWARE"
}

# ---------------------------------------------------------------- what this machine is

sha() { sha256sum | cut -c1-12; }

# The wheel is compiled with -march=native and dies with an illegal instruction on a CPU that lacks one of the
# instructions, so the cache key is the list of instruction sets. x86: only those a compiler uses by itself, because
# the rest of the line (mitigations, virtualization) changes with every kernel. ARM: the hwcaps and the core types.
cpu_flags() {
    [[ -r $CPUINFO ]] || return 0
    {
        sed -n 's/^flags[[:space:]]*: //p' "$CPUINFO" | sort -u | tr ' ' '\n' |
            grep -xE 'pni|(sse|ssse|avx|amx|fma|bmi|sha)[0-9a-z_]*|f16c|popcnt|abm|movbe|tbm|xop|cx16|lahf_lm|3dnowprefetch|aes|adx|gfni|v?pclmulqdq|vaes' || true
        sed -nE 's/^(Features|CPU implementer|CPU part)[[:space:]]*: /\1 /p' "$CPUINFO"
    } | sort -u
}

python_tag() {                         # e.g. cpython-311-x86_64-glibc-2.36: what a compiled wheel depends on besides the CPU
    "$1" -I -c 'import platform, sys; print("-".join((sys.implementation.cache_tag, platform.machine(), *platform.libc_ver())))'
}

llama_version() { sed -nE 's/.*"llama-cpp-python==([0-9.]+)".*/\1/p' "$ROOT/pyproject.toml"; }

appliance_version() { sed -nE 's/^## ([0-9]+\.[0-9]+\.[0-9]+).*/\1/p' "$ROOT/CHANGELOG.md" | head -n 1; }

wheel_key() {                          # $1: python_tag
    printf 'llama_cpp_python-%s-%s-%s' "$(llama_version)" "$1" "$({ cpu_flags; printf '%s' "$BUILD_FLAGS $BUILD_CXXFLAGS"; } | sha)"
}

requirements() {                       # every requirement but llama-cpp-python, those to build the project itself included
    "$1" -I - "$ROOT/pyproject.toml" "${EXTRAS[@]}" <<'END'
import sys, tomllib
with open(sys.argv[1], "rb") as file:
    pyproject = tomllib.load(file)
project, found = pyproject["project"], list(pyproject["build-system"]["requires"])
found += [line for line in project["dependencies"] if not line.startswith("llama-cpp-python")]
for extra in sys.argv[2:]:
    found += project["optional-dependencies"][extra]
print("\n".join(sorted(set(found))))
END
}

llama_wheel() { compgen -G "$WHEELS/llama_cpp_python-$(llama_version)-*.whl" | head -n 1; }

# ---------------------------------------------------------------- is it installed already?

# The stamp is written last, so a run that was killed leaves none. It holds what the environment depends on:
# where it lies (scripts carry absolute paths: a moved checkout needs a new one), interpreter, CPU, and the project.
stamp_base() { printf 'base %s %s' "$(wheel_key "$1")" "$ROOT"; }

stamp_project() { printf 'project %s %s' "$(appliance_version)" "$(sha <"$ROOT/pyproject.toml")"; }

stamped_extras() { sed -n 's/^extra //p' "$STAMP" 2>/dev/null || true; }

venv_usable() {                        # an environment that an earlier run finished, for this place, interpreter and CPU
    local tag
    [[ -f $STAMP ]] && tag=$(python_tag "$VENV/bin/python" 2>/dev/null) || return 1
    [[ -z ${PYTHON:-} || $(python_tag "$PYTHON" 2>/dev/null) == "$tag" ]] || return 1
    grep -qxF -- "$(stamp_base "$tag")" "$STAMP"
}

up_to_date() {
    local extra
    venv_usable && grep -qxF -- "$(stamp_project)" "$STAMP" || return 1
    for extra in "${EXTRAS[@]}"; do grep -qxF -- "extra $extra" "$STAMP" || return 1; done
}

# ---------------------------------------------------------------- preflight: looks, changes nothing, says everything at once

PROBLEMS=() PACKAGES=()

problem() {                            # TEXT [DEBIAN PACKAGE...]
    PROBLEMS+=("$1")
    PACKAGES+=("${@:2}")
}

# Sets PY to the first interpreter that will do; else to one that is only short of venv, and says what is wrong.
find_python() {
    local name path verdict old='' novenv='' names=(python3 python3.14 python3.13 python3.12 python3.11)
    PY=
    [[ -z ${PYTHON:-} ]] || names=("$PYTHON")
    if [[ -z ${PYTHON:-} ]] && venv_usable; then
        PY=$VENV/bin/python            # stay with what .venv was made with
        return
    fi
    for name in "${names[@]}"; do
        path=$(command -v -- "$name") || continue
        verdict=$("$path" -I -c '
import sys
if sys.version_info < (3, 11):
    print("old %d.%d" % sys.version_info[:2])
else:
    try:
        import ensurepip, venv
        print("good", getattr(sys, "_base_executable", sys.executable))  # not a shim, not somebody else'\''s venv
    except ImportError:
        print("novenv")' 2>/dev/null) || continue
        case $verdict in
            good*) PY=${verdict#good } && return ;;
            old*) : "${old:=${verdict#old }}" ;;
            novenv) : "${novenv:=$path}" ;;
        esac
    done
    if [[ -n $novenv ]]; then
        PY=$novenv name=${novenv##*/}
        problem "$name cannot make virtual environments (its modules venv and ensurepip are missing)" "$name-venv"
    elif [[ -n $old ]]; then
        problem "Python 3.11 or newer is needed; this machine has $old (Debian 12 and Ubuntu 22.04 have packages of 3.11)" python3.11 python3.11-venv
    else
        problem "no Python (3.11 or newer is needed)" python3 python3-venv
    fi
}

# Python's headers are not needed: llama-cpp-python is loaded through ctypes. Nor is git.
check_compiler() {
    if ! command -v g++ >/dev/null || ! command -v gcc >/dev/null; then
        problem "no C and C++ compiler (gcc, g++)" g++
    elif ! g++ -std=c++17 -fsyntax-only -x c++ - <<<$'#include <vector>\n#include <unistd.h>\nint main() {}' 2>/dev/null; then
        problem "g++ does not compile a small C++17 program (are the C library's headers there?)" g++ libc6-dev
    fi
    command -v cmake >/dev/null || problem "no cmake" cmake
    command -v ninja >/dev/null || command -v make >/dev/null || problem "no ninja and no make" ninja-build
}

nearest_folder() {
    local path=$1
    until [[ -d $path ]]; do path=$(dirname -- "$path"); done
    printf '%s' "$path"
}

free_disk_mb() { df -Pm -- "$1" | awk 'NR == 2 { print $4 }'; }

free_memory_mb() {                     # what the kernel has and what a container's limit leaves, the smaller of them
    local free limit used
    free=$(awk '/^MemAvailable:/ { print int($2 / 1024) }' /proc/meminfo)
    limit=$(cat /sys/fs/cgroup/memory.max 2>/dev/null || echo max)
    used=$(cat /sys/fs/cgroup/memory.current 2>/dev/null || echo 0)
    [[ $limit == max ]] || ((limit = (limit - used) / 1048576, free = limit < free ? limit : free))
    printf '%s' "$free"
}

check_room() {                         # $1: MB of disk
    local folder seen=''
    for folder in "$(nearest_folder "$CACHE")" "$(nearest_folder "$VENV")"; do
        [[ $folder != "$seen" ]] || continue
        seen=$folder
        [[ -w $folder ]] || problem "no permission to write in $folder"
        (($(free_disk_mb "$folder") >= $1)) || problem "$(free_disk_mb "$folder") MB of disk free in $folder; $1 MB are needed"
    done
}

can_fetch() {                          # asks pip itself, with the index that this machine is set up for
    local pip=(-m pip)
    "$PY" -m pip --version >/dev/null 2>&1 || pip=("$("$PY" -I -c '
import ensurepip, glob, os, sysconfig
folders = sysconfig.get_config_var("WHEEL_PKG_DIR"), os.path.join(os.path.dirname(ensurepip.__file__), "_bundled")
print(next(path for folder in folders if folder for path in glob.glob(os.path.join(folder, "pip-*.whl"))))')/pip")
    "$PY" "${pip[@]}" --retries 0 --timeout 15 index versions hatchling >/dev/null 2>&1
}

check_test_tools() {                   # what the tests run besides Python: COMMAND:PACKAGE
    local tool
    for tool in openssl:openssl chromium:chromium systemd-analyze:systemd ip:iproute2 curl:curl cc:gcc; do
        command -v "${tool%:*}" >/dev/null || problem "there is no ${tool%:*}; the tests need it" "${tool#*:}"
    done
}

preflight() {
    local disk_mb=1000
    PROBLEMS=() PACKAGES=() WHEELS='' WHEELS_COMPLETE=''
    find_python
    if [[ -n $PY ]]; then
        WHEELS=$CACHE/$(wheel_key "$(python_tag "$PY")")
        WHEELS_COMPLETE=$WHEELS/complete-$(requirements "$PY" | sha)   # there when every wheel of these requirements is
    fi
    case $(uname -m) in
        x86_64 | aarch64) ;;
        *) problem "this machine is $(uname -m); x86_64 and aarch64 are supported" ;;
    esac
    if [[ -z $WHEELS || -z $(llama_wheel) ]]; then
        disk_mb=3000
        check_compiler
        (($(free_memory_mb) >= 1000)) || problem "$(free_memory_mb) MB of memory free; compiling llama.cpp needs 1000 MB"
    fi
    if [[ " ${EXTRAS[*]-} " == *" test "* ]]; then check_test_tools; fi
    check_room "$disk_mb"
    # Asked last, because it takes time without a network, and only if the answer matters.
    if [[ -n $PY && (-z $(llama_wheel) || ! -e $WHEELS_COMPLETE) ]] && ! can_fetch; then
        problem "pip reaches no package index, and $WHEELS does not have every wheel (see: $PY -m pip index versions hatchling)"
    fi
    ((${#PROBLEMS[@]} == 0))
}

report_problems() {
    local line become=''
    warn "install.sh: this machine is not ready; nothing was changed."
    for line in "${PROBLEMS[@]}"; do warn "  ✗ $line"; done
    ((${#PACKAGES[@]})) || return 0
    ((EUID == 0)) || become='sudo '
    warn "Install the missing packages and run this again:"
    warn "  ${become}apt-get install $(unique_packages)"
}

unique_packages() { printf '%s\n' "${PACKAGES[@]}" | sort -u | paste -sd ' '; }

apt_install() {
    apt-get update
    # shellcheck disable=SC2046         # package names have no spaces
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $(unique_packages)
}

# ---------------------------------------------------------------- the steps

# A user's PYTHONPATH, PYTHONHOME or `user = true` in pip.conf would put packages where they do not belong.
clean_python() { env -u PYTHONPATH -u PYTHONHOME -u PIP_TARGET -u PIP_PREFIX PIP_USER=0 TMPDIR="$WORK" "$@"; }

jobs() {                               # as many as cores, but a compiler process wants up to 1 GB
    local cores memory
    cores=$(nproc) memory=$(($(free_memory_mb) / 1000))
    printf '%s' "$((memory < 1 ? 1 : memory < cores ? memory : cores))"
}

make_tools() { clean_python "$PY" -m venv "$WORK/tools"; }

# --no-binary: not a stranger's build. --no-cache-dir: pip's own cache does not know for which CPU it built.
build_llama() {
    CMAKE_ARGS=$BUILD_FLAGS CXXFLAGS=$BUILD_CXXFLAGS CMAKE_BUILD_PARALLEL_LEVEL=$(jobs) clean_python "$WORK/tools/bin/python" -m pip wheel \
        --no-deps --no-cache-dir --no-binary llama-cpp-python --wheel-dir "$WORK/llama" "llama-cpp-python==$(llama_version)"
    mv -f -- "$WORK"/llama/*.whl "$WHEELS/"
}

fetch_wheels() {                       # moved into place one by one when all are there: no cut-off wheel is ever seen
    requirements "$PY" >"$WORK/requirements.txt"
    clean_python "$WORK/tools/bin/python" -m pip wheel --retries 2 \
        --find-links "$WHEELS" --wheel-dir "$WORK/wheels" -r "$WORK/requirements.txt" "$(llama_wheel)"
    mv -f -- "$WORK"/wheels/*.whl "$WHEELS/"
    touch -- "$WHEELS_COMPLETE"
}

# The environment is made in its final place, because its scripts carry its absolute path and a rename would break
# them. What keeps it from being used half done is the stamp: removed first, written last; without one, start afresh.
make_venv() {
    local usable=0
    ! venv_usable || usable=1
    rm -f -- "$STAMP"
    ((usable)) || make_fresh_venv
}

make_fresh_venv() {
    rm -rf -- "$VENV"
    clean_python "$PY" -m venv "$VENV"
}

# From the cache alone, whatever this machine's pip configuration says: the same with and without a network.
install_project() {
    local extras
    extras=$(IFS=,; printf '%s' "${EXTRAS[*]}")
    clean_python env PIP_CONFIG_FILE=/dev/null PIP_FIND_LINKS= "$VENV/bin/python" -m pip install --no-index --find-links "$WHEELS" \
        "$(llama_wheel)" --editable "$ROOT${extras:+[$extras]}"
}

install_or_forget() {                  # a wheel vanished from the cache although the marker is there: fetch again next time
    install_project && return
    rm -f -- "$WHEELS_COMPLETE"
    return 1
}

check_install() { clean_python "$VENV/bin/python" -I -c 'import llama_cpp, appliance.cli'; }

write_stamp() {
    sync -f -- "$VENV"                 # a power cut must not leave a stamp without the files it vouches for
    {
        stamp_base "$(python_tag "$VENV/bin/python")" && echo
        stamp_project && echo
        ((${#EXTRAS[@]} == 0)) || printf 'extra %s\n' "${EXTRAS[@]}"
    } >"$STAMP.new"
    mv -f -- "$STAMP.new" "$STAMP"
}

install_all() {
    local extra
    # What an earlier run installed stays: `make test`, then `./install.sh --user`, keeps the tests' packages.
    for extra in $(stamped_extras); do [[ " ${EXTRAS[*]} " == *" $extra "* ]] || EXTRAS+=("$extra"); done

    if ! preflight; then
        if ((APT && EUID == 0 && ${#PACKAGES[@]})) && command -v apt-get >/dev/null; then
            mkdir -p -- "$CACHE"
            step "system packages: $(unique_packages)" apt_install
        fi
        preflight || { report_problems; exit "$EX_UNAVAILABLE"; }
    fi

    # One installer at a time. Its children hold the lock too, so a killed run's orphan cannot write beside us.
    mkdir -p -- "$CACHE"
    exec 9>"$CACHE/.lock"
    flock -n 9 || { say "… another install.sh is at work; waiting for it"; flock 9; }
    if up_to_date; then return; fi
    rm -rf -- "$CACHE"/work.*            # a killed run's
    WORK=$(mktemp -d -- "$CACHE/work.XXXXXX")
    trap 'rm -rf -- "$WORK"' EXIT
    : >"$LOG"
    mkdir -p -- "$WHEELS"

    if [[ -z $(llama_wheel) || ! -e $WHEELS_COMPLETE ]]; then step "tools to build with" make_tools; fi
    if [[ -z $(llama_wheel) ]]; then
        say "… compiling llama.cpp for this CPU with $(jobs) jobs: 3 to 6 minutes on two cores; log: $LOG"
        step "llama.cpp compiled for this CPU" build_llama
    fi
    if [[ ! -e $WHEELS_COMPLETE ]]; then step "other packages fetched" fetch_wheels; fi
    step "virtual environment in .venv" make_venv
    step "packages installed" install_or_forget
    step "checked that it starts" check_install
    write_stamp
    rm -rf -- "$WORK"
    trap - EXIT
}

# ---------------------------------------------------------------- from a bundle

# Runs the installer that the bundle carries, from a folder of its own that is gone afterwards. Python's standard library and the
# bundle's own wheels are all that it needs.
from_bundle() {                        # BUNDLE FLAGS...
    local name path
    for name in "${PYTHON:-python3}" python3.14 python3.13 python3.12 python3.11; do
        path=$(command -v -- "$name") || continue
        "$path" -I -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
        # shellcheck disable=SC2093    # the loop goes on only past what is no such Python
        exec "$path" -I - "$@" 3<&0 <<'END'
import os, pathlib, shutil, sys, tarfile, tempfile, zipfile
os.dup2(3, 0)                          # the person's input again, not this script
bundle, needed = pathlib.Path(sys.argv[1]), ("appliance", "cryptography", "cffi", "pycparser")
folder = tempfile.mkdtemp(prefix="appliance-install-")
def wheels():
    if bundle.is_dir():
        yield from (path.open("rb") for path in bundle.glob("wheels/*.whl") if path.name.split("-")[0] in needed)
        return
    with bundle.open("rb") as file:
        file.seek(4096)
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.name.startswith("wheels/") and member.name[7:].split("-")[0] in needed:
                    yield tar.extractfile(member)
try:
    try:
        for wheel in wheels():
            with wheel, zipfile.ZipFile(wheel) as packed:
                packed.extractall(folder, [name for name in packed.namelist() if not name.startswith(("appliance/models/", "appliance/web/"))])
        sys.path.insert(0, folder)
        sys.dont_write_bytecode = True
        from appliance.installer.__main__ import main
    except (OSError, EOFError, ImportError, SyntaxError, tarfile.TarError, zipfile.BadZipFile) as error:
        print(f"install.sh: {bundle} is damaged, or made for another machine; nothing was changed. Copy it again. ({error})", file=sys.stderr)
        sys.exit(65)
    sys.exit(main(sys.argv[1:]))
finally:
    shutil.rmtree(folder, ignore_errors=True)
END
    done
    PROBLEMS=() PACKAGES=()
    problem "no Python 3.11 or newer (Debian 12 has it, Ubuntu 22.04 has the package python3.11)" python3
    report_problems
    exit "$EX_UNAVAILABLE"
}

# ---------------------------------------------------------------- the command line

main() {
    local user=0 run=0 serve_args=()
    EXTRAS=() APT=0
    if [[ ${1:-} == --bundle ]]; then
        (($# > 1)) || wrong_usage "--bundle needs a file"
        from_bundle "${@:2}"
    elif [[ -f $ROOT/manifest.json ]]; then
        from_bundle "$ROOT" "$@"
    fi
    while (($#)); do
        case $1 in
            --user) user=1 ;;
            --test) EXTRAS+=(test) ;;
            --extra)
                (($# > 1)) || wrong_usage "--extra needs a name"
                case $2 in
                    test | bench | factory) EXTRAS+=("$2") ;;
                    *) wrong_usage "unknown extra: $2 (there are test, bench and factory)" ;;
                esac
                shift
                ;;
            --apt) APT=1 ;;
            --run) run=1 && shift && serve_args=("$@") && break ;;
            -h | --help) usage && return ;;
            *) wrong_usage "unknown flag: $1" ;;
        esac
        shift
    done
    ((user)) || wrong_usage "say where to install: --user (before --run; what follows --run goes to \`appliance serve\`)"

    if up_to_date; then
        say "✓ appliance $(appliance_version) is installed in .venv already"
    else
        install_all
        say "✓ appliance $(appliance_version) is ready"
    fi
    if ((run)); then
        exec 9>&-                      # the service must not hold the installer's lock
        exec "$VENV/bin/appliance" serve "${serve_args[@]}"
    fi
    say "  start it with: $VENV/bin/appliance serve"
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
    main "$@"
fi
