# Sourced by ./demo and ./check: makes .venv beside this checkout and installs what is asked for, once.
# Needs Python 3.11 or newer; installs Debian packages when they are missing and it may (as root).

say() { printf '\n==> %s\n' "$*"; }

# system_packages COMMAND PACKAGE ...: installs PACKAGEs unless COMMAND succeeds.
system_packages() {
    local probe=$1; shift
    if eval "$probe" >/dev/null 2>&1; then return 0; fi
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "missing here: $* (install it with: apt-get install $*)"
        return 1
    fi
    say "installing $*"
    apt-get update -q >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" >/dev/null
}

# c_compiler: for the kernels that are compiled on first use; without one torch computes alone, slower.
c_compiler() { system_packages 'command -v cc || command -v gcc || command -v clang' gcc libc6-dev || true; }

find_python() {
    local candidate
    for candidate in python3.11 python3.12 python3.13 python3; do
        if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'; then
            command -v "$candidate"
            return 0
        fi
    done
    return 1
}

# make_venv PIP_ARGUMENTS ...: .venv with the package (editable) and the arguments; again only when they changed.
make_venv() {
    local python stamp wanted
    python=$(find_python) || { system_packages false python3 python3-venv && python=$(find_python); } || {
        echo "Python 3.11, 3.12 or 3.13 is needed"
        exit 1
    }
    system_packages "'$python' -c 'import ensurepip, venv'" python3-venv || exit 1
    wanted=$(cat pyproject.toml constraints.txt scripts/setup.sh | "$python" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())')
    stamp=".venv/luthier-installed-$(printf '%s' "$*" | tr -c 'a-z' '-')"
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then return 0; fi
    [ -x .venv/bin/python ] || { say "making .venv with $("$python" --version)"; "$python" -m venv .venv; }
    say "installing (once; the largest part is torch)"
    .venv/bin/python -m pip install -q --upgrade 'pip>=25.1'
    .venv/bin/python -m pip install -q --progress-bar off -c constraints.txt -e . "$@"
    printf '%s' "$wanted" >"$stamp"
}
