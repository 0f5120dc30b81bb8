#!/usr/bin/env bash
# Brings the virtual environment to locked versions; takes a second where it has them. `make` calls
# it.
#
#   tools/install.sh         install what is missing
#   tools/install.sh lock    resolve the requirements into requirements.lock, to the newest versions
#
# Read from the environment (the Makefile sets them):
#   VENV                 where the environment lies
#   PYTHON               the interpreter to build it with; empty: the first suitable one found
#   TORCH, TORCHVISION   the exact pair to install
#   STACK                onedl, or original: the distributions behind mmengine, mmcv, ...
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
uv=$VENV.uv/bin/uv # works on environments from outside, so that none has to be whole for it
UV_VERSION=$(sed -n 's/^uv==\([0-9.]*\).*/\1/p' requirements-dev.txt)

# A path or a build setting of the caller's must not leak into the environment.
unset PYTHONPATH PYTHONHOME PIP_REQUIRE_VIRTUALENV PIP_USER PIP_TARGET VIRTUAL_ENV CONDA_PREFIX
# mmcv comes as source. Its set-up compiles its operators (20 minutes) whenever it can import torch,
# with or without nvcc. An isolated build holds no torch, so there it packs the Python files only,
# in seconds; the operators needed are served by mmsalmask.compat.
unset UV_NO_BUILD_ISOLATION
export UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-180} UV_SYSTEM_CERTS=${UV_SYSTEM_CERTS:-true}

fail() { # what went wrong, then what to do about it, a line each
    printf 'Installing failed: %s\n' "$1" >&2
    printf '  %s\n' "${@:2}" >&2
    exit 1
}

version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }

make_uv() {
    [[ $("$uv" --version 2>/dev/null) == "uv $UV_VERSION"* ]] && return
    rm -rf "$VENV.uv"
    { "${PYTHON:-python3}" -m venv "$VENV.uv" &&
        "$VENV.uv/bin/python" -m pip install --quiet --disable-pip-version-check "uv==$UV_VERSION"
    } || fail "${PYTHON:-python3} could not make $VENV.uv." "The reason stands above. It needs venv" \
        "(Debian: apt-get install python3-venv) and a package index (pip config list)."
}

use_mirror() { # uv does not read pip's settings
    local mirror=${PIP_INDEX_URL:-$("$VENV.uv/bin/python" -m pip config get global.index-url 2>/dev/null)}
    [ -z "$mirror" ] || export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$mirror}
}

broken_off() { # packages have changed since the start of an installation that did not end
    [ -n "$(find "$VENV"/lib/python3*/site-packages -prune -newer "$VENV/unfinished" 2>/dev/null)" ]
}

usable() { # it is whole, runs, and is of the Python asked for
    local found
    ! broken_off || return 1
    found=$(version "$VENV/bin/python" 2>/dev/null) || return 1
    [ -z "$PYTHON" ] || [ "$found" = "$(version "$("$uv" python find --system "$PYTHON")")" ]
}

make_environment() {
    local options=(--quiet --python "${PYTHON:->=3.10,<3.13}")
    [ ! -f "$VENV/pyvenv.cfg" ] || options+=(--clear) # else uv leaves a folder with files alone
    "$uv" venv "${options[@]}" "$VENV" ||
        fail "no environment could be made in $VENV." "Name another place, or a Python of 3.10 to" \
            "3.12: make VENV=/another/place PYTHON=/path/to/python3.11 ..."
}

wanted() { # the requirements, a line each
    cat requirements-dev.txt
    if [ "$STACK" = original ]; then
        grep -v '^onedl-' requirements.txt
        cat requirements-original.txt
    else
        cat requirements.txt
    fi
    printf '\n%s\n' "torch==$TORCH" "torchvision==$TORCHVISION"
}

resolve() { # into a file, whose versions are kept where they can be, unless told otherwise
    wanted | "$uv" pip compile - --quiet --generate-hashes --no-annotate \
        --custom-compile-command "make lock" --output-file "$@"
}

main() {
    local lock=requirements.lock options=(--no-deps)
    usable || make_environment
    if [ "$STACK" = original ] || ! grep -q "^torch==$TORCH " $lock ||
        ! grep -q "^torchvision==$TORCHVISION " $lock; then
        lock=$VENV/requirements.lock
        [ -f "$lock" ] || cp requirements.lock "$lock"
        resolve "$lock" --python "$VENV/bin/python"
    fi
    [ -e mmsalmask/.mim/configs ] || options+=(--reinstall-package mmsalmask)
    touch "$VENV/unfinished"
    # As a line of a list, so that it is left alone where it is installed from here.
    "$uv" pip install --python "$VENV/bin/python" "${options[@]}" -r "$lock" -r - <<<"-e ." ||
        fail "the reason stands above." "What is fetched already is kept: mend it and run make again."
    rm "$VENV/unfinished"
}

{ mkdir -p "$(dirname "$VENV")" && touch "$VENV.lock"; } ||
    fail "cannot write where $VENV shall lie." "Name another place: make VENV=..."
# Two makes at once take turns. (Where there is no flock, as on macOS, that is up to the user.)
if command -v flock >/dev/null; then
    exec 9>"$VENV.lock"
    flock 9
fi
make_uv
use_mirror
if [ "${1:-}" = lock ]; then
    resolve requirements.lock --upgrade --universal --python-version 3.10 # for every Python
else
    main
fi
