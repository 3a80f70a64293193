#!/bin/sh
# Print the newest supported Python of this machine, or say in one line what to install. `make setup` asks it.
#
#   sh scripts/find_python.sh                       # python3.13 … python3.11, then python3
#   PYTHON=/opt/bin/python3.12 sh scripts/find_python.sh    # this one or none
#
# `requires-python` in pyproject.toml is the only place that says which versions are supported.
set -u
cd "$(dirname "$0")/.." || exit 1

bounds=$(sed -n 's/^requires-python = ">=3\.\([0-9]*\),<3\.\([0-9]*\)"$/\1 \2/p' pyproject.toml)
oldest=${bounds% *}
newest=$((${bounds#* } - 1))

# A candidate has to run: a shim of pyenv exists for versions that are not active, and fails. It needs ensurepip,
# which Debian keeps in a package of its own, to make an environment with pip.
supported() {
    "$1" -c "import ensurepip, sys, venv; sys.exit(not (3, $oldest) <= sys.version_info[:2] <= (3, $newest))" 2>/dev/null
}

if [ -n "${PYTHON:-}" ]; then
    if supported "$PYTHON"; then
        echo "$PYTHON"
        exit 0
    fi
    echo "error: PYTHON=$PYTHON is no Python 3.$oldest to 3.$newest with venv; name another, or none to have one chosen" >&2
    exit 2
fi
minor=$newest
while [ "$minor" -ge "$oldest" ]; do
    if supported "python3.$minor"; then
        echo "python3.$minor"
        exit 0
    fi
    minor=$((minor - 1))
done
if supported python3; then
    echo python3
    exit 0
fi
echo "error: no Python 3.$oldest to 3.$newest with venv on the PATH; run \`apt-get install python3 python3-venv\` (Debian 12, Ubuntu 24.04 or newer) or \`uv python install 3.$newest\`" >&2
exit 2
