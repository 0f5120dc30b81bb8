#!/usr/bin/env bash
# Brings the virtual environment up to date; does nothing when it already is. `make` calls it.
#
#   tools/install.sh        install what is missing
#   tools/install.sh key    print a name for the environment wanted, for a cache's use
#
# Read from the environment (the Makefile sets them):
#   VENV                 where the environment lies
#   PYTHON               the interpreter to build it with; empty: the first suitable one found
#   TORCH, TORCHVISION   the exact pair to install
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
CHECKOUT=$PWD
VENV=${VENV:-.venv}
PYTHON=${PYTHON:-}
export TORCH=${TORCH:?set by make} TORCHVISION=${TORCHVISION:?set by make}
LOG=$VENV/install.log
STAMP=$VENV/mmsalmask-installed.json
FREE_GB=9 # the environment takes 5 to 6 GB, pip's downloads on the way up to 3 more

# A path or a build setting of the caller's must not leak into the environment.
unset PYTHONPATH PYTHONHOME PIP_REQUIRE_VIRTUALENV PIP_USER PIP_TARGET
# mmcv comes as source. Its set-up compiles its operators (20 minutes) whenever it can import torch,
# with or without nvcc. pip's isolated build environment holds no torch, so there it packs the
# Python files only, in seconds; the operators needed are served by mmsalmask.compat. So isolation
# has to stay on. MMCV_WITH_OPS=0 says the same to the original mmcv, which reads that variable.
unset PIP_NO_BUILD_ISOLATION
export MMCV_WITH_OPS=0

fail() { # what went wrong, then what to do about it, a line each
    printf '\nInstalling failed: %s\n' "$1" >&2
    shift
    [ $# -eq 0 ] || printf '  %s\n' "$@" >&2
    exit 1
}

# ------------------------------------------------------------------------------- which Python

IS_SUITABLE='
import importlib, sys
for module in ["venv", "ensurepip", *sys.argv[1:]]:
    importlib.import_module(module)
sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))'

suitable() { "$1" -I -c "$IS_SUITABLE" "${@:2}" >/dev/null 2>&1; } # modules it needs besides

# One line about an interpreter that will not do. A pyenv shim exists and yet may not run.
why_not() {
    local path version
    path=$(command -v "$1") || { echo "$1: not found"; return; }
    version=$("$1" -c 'import platform; print(platform.python_version())' 2>/dev/null) ||
        { echo "$1: $path does not run: $("$1" --version 2>&1 | head -n 1)"; return; }
    case $version in
    3.10.* | 3.11.* | 3.12.*) echo "$1: $path, $version, lacks venv (Debian: python3-venv)" ;;
    *) echo "$1: $path, $version" ;;
    esac
}

choose_python() {
    if [ -n "$PYTHON" ]; then
        suitable "$PYTHON" || fail "PYTHON=$PYTHON is no Python 3.10, 3.11 or 3.12 with venv." \
            "$(why_not "$PYTHON")"
        echo "$PYTHON"
        return
    fi
    local name found=()
    for name in python3.12 python3.11 python3.10 python3 python; do
        if suitable "$name"; then
            echo "$name"
            return
        fi
        found+=("$(why_not "$name")")
    done
    fail "no Python 3.10, 3.11 or 3.12 that runs and has venv. Looked at:" "${found[@]}" \
        "Install one of them, or name it: make PYTHON=/path/to/python3.11 ..."
}

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }

# --------------------------------------------------------------------------------------- steps

announce() { # why there is something to do
    printf 'Installing into %s (%s). Log: %s\n' "$VENV" "$1" "$LOG"
    : >"$LOG"
}

step() { # its name, then the command; the command's words go to the log
    local name=$1 begin=$SECONDS
    shift
    printf '  %-58s ' "$name"
    printf '\n=== %s: %s\n' "$name" "$*" >>"$LOG"
    if "$@" </dev/null >>"$LOG" 2>&1; then
        printf '%4d s\n' $((SECONDS - begin))
        return
    fi
    printf 'failed\n'
    local end advice
    end=$(tail -n 20 "$LOG")
    case $end in
    *"No space left on device"*)
        advice="The disk is full: free some space, or put the environment elsewhere (make VENV=...)." ;;
    *NewConnectionError* | *"name resolution"* | *"Read timed out"*)
        advice="The package index was not reached: check the network, or name a mirror in pip.conf." ;;
    *"No matching distribution"* | *ResolutionImpossible*)
        advice="pip found no such version: check the index it asks (pip config list), TORCH, TORCHVISION." ;;
    *) advice="Mend what it names and run make again; what is installed already is kept." ;;
    esac
    fail "step '$name'. The log ends:" "${end//$'\n'/$'\n'  }" "Whole log: $LOG" "$advice"
}

pip() { "$VENV/bin/python" -m pip install --disable-pip-version-check --no-input --progress-bar off "$@"; }

check_disk() {
    local free_kb
    free_kb=$(df -Pk "$VENV" | awk 'NR == 2 { print $4 }')
    [ "$free_kb" -ge $((FREE_GB * 1024 * 1024)) ] ||
        fail "$((free_kb / 1024 / 1024)) GB free where $VENV lies; PyTorch and the rest need $FREE_GB GB." \
            "Free some space, or put the environment elsewhere: make VENV=/bigger/disk/venv ..."
}

usable() { # an environment to go on with: it runs, has pip, and is of the Python asked for
    local version
    [ -f "$VENV/pyvenv.cfg" ] && suitable "$VENV/bin/python" pip || return 1
    [ -z "$PYTHON" ] && return
    version=$(version_of "$PYTHON") && [ "$version" = "$(version_of "$VENV/bin/python")" ]
}

missing() { # prints what of "requirements" and "package" to install, a line each, and why
    "$VENV/bin/python" -I tools/environment.py missing "$STAMP"
}

make_environment() {
    local python
    python=$(choose_python)
    if [ -d "$VENV" ] && [ ! -f "$VENV/pyvenv.cfg" ] && [ ! -f "$LOG" ] && [ -n "$(ls -A "$VENV")" ]
    then
        fail "$VENV exists and is no virtual environment." "Name another place: make VENV=..."
    fi
    rm -rf "$VENV"
    mkdir -p "$VENV"
    announce "it has to be made"
    check_disk
    step "virtual environment with Python $(version_of "$python")" "$python" -m venv "$VENV"
}

install_requirements() {
    local pins=$VENV/mmsalmask-constraints.txt
    rm -f "$STAMP"
    printf 'torch==%s\ntorchvision==%s\n' "$TORCH" "$TORCHVISION" >"$pins"
    [ -n "$(find "$VENV"/lib*/python3*/site-packages -maxdepth 1 -name torch)" ] || check_disk
    step "torch $TORCH, torchvision $TORCHVISION (3 GB)" \
        pip --constraint "$pins" torch torchvision
    step "requirements.txt and requirements-dev.txt" \
        pip --constraint "$pins" -r requirements.txt -r requirements-dev.txt
    step "a look at what is there now" "$VENV/bin/python" -I tools/environment.py stamp "$STAMP"
}

install_package() {
    # Without isolation: nothing is downloaded for it.
    step "mmsalmask, editable, from $CHECKOUT" pip --no-deps --no-build-isolation --editable .
}

main() {
    local lacking
    if usable; then
        lacking=$(missing)
        [ -n "$lacking" ] || return 0
        announce "${lacking//$'\n'/; }"
    else
        make_environment
        lacking=$(missing)
    fi
    case $lacking in *requirements:*) install_requirements ;; esac
    case $lacking in *package:*) install_package ;; esac
    lacking=$(missing)
    [ -z "$lacking" ] || fail "pip reported success, yet there is something amiss:" "$lacking" \
        "Remove $VENV and run make again; pip's words are in $LOG"
    echo "Installed in $SECONDS s."
}

if [ "${1:-}" = key ]; then
    python=$(choose_python)
    "$python" -I tools/environment.py key
else
    { mkdir -p "$(dirname "$VENV")" && touch "$VENV.lock"; } ||
        fail "cannot write where $VENV shall lie." "Name another place: make VENV=..."
    # Two makes at once take turns. (Where there is no flock, as on macOS, that is up to the user.)
    if command -v flock >/dev/null; then
        exec 9>"$VENV.lock"
        flock 9
    fi
    main
fi
