#!/usr/bin/env bash
# Run the device's part under emulated arm64: for correctness, since emulated time says nothing.
# Usage (as root): tools/arm64.sh ARGUMENTS OF PYTHON…
#   tools/arm64.sh -m pytest -q tests/unit/test_trainer.py
# Makes a Debian 12 of its own in build/arm64 the first time (about five minutes), with the wheels
# that a device would install. /sys is not mounted there: an emulated process that finds the host's
# crashes in the interpreter's count of cores.
set -eu
cd "$(dirname "$0")/.."
root=build/arm64/root
site=build/arm64/site
glibc=36 # of Debian 12

say() { printf 'arm64: %s\n' "$*" >&2; }

[ "$(id -u)" = 0 ] || { say "this needs root, to make and enter a Debian of another machine"; exit 1; }
if ! command -v mmdebstrap qemu-aarch64-static arch-test >/dev/null; then
    say "installing the Debian packages qemu-user-static binfmt-support mmdebstrap arch-test"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        qemu-user-static binfmt-support mmdebstrap arch-test >/dev/null
fi
[ -e /proc/sys/fs/binfmt_misc/status ] || mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
update-binfmts --enable qemu-aarch64 2>/dev/null

if [ ! -e "$root/.made" ]; then
    say "making a Debian 12 for arm64 in $root"
    rm -rf "$root"
    mkdir -p "$(dirname "$root")"
    mmdebstrap --quiet --arch=arm64 --variant=minbase --include=python3 bookworm "$root"
    touch "$root/.made"
fi
if [ ! -e "$site/.made" ]; then
    say "installing the device's wheels for aarch64 in $site"
    rm -rf "$site"
    platforms=(--platform manylinux2014_aarch64)
    for minor in $(seq 17 $glibc); do platforms+=(--platform "manylinux_2_${minor}_aarch64"); done
    mapfile -t needs < <(python3 - <<'PYTHON'
import tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
print(*project["dependencies"], *project["optional-dependencies"]["edge"], sep="\n")
PYTHON
    )
    python3 -m pip install --quiet --root-user-action=ignore --disable-pip-version-check --only-binary=:all: \
        "${platforms[@]}" --implementation cp --python-version 3.11 --target "$site" \
        "${needs[@]}" pytest pytest-timeout pytest-xdist hypothesis
    touch "$site/.made"
fi

# A mount namespace of its own: nothing stays mounted, whatever happens.
exec unshare --mount bash -eu -c '
    root=$1; shift
    mkdir -p "$root/qflare" "$root/proc"
    mount --bind . "$root/qflare"
    mount -t proc proc "$root/proc"
    exec chroot "$root" /usr/bin/env -C /qflare -i PATH=/usr/bin:/bin HOME=/tmp LANG=C.UTF-8 \
        PYTHONPATH=/qflare/build/arm64/site:/qflare PYTHONDONTWRITEBYTECODE=1 python3 "$@"
' arm64 "$root" "$@"
