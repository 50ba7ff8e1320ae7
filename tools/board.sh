#!/usr/bin/env bash
# Install what an emulated board needs: QEMU, and what makes its Debian and its disks.
set -eu
missing=()
need() { command -v "$1" >/dev/null || missing+=("${@:2}"); }
need qemu-system-aarch64 qemu-system-arm
need qemu-img qemu-utils
need mmdebstrap mmdebstrap arch-test
need qemu-aarch64-static qemu-user-static binfmt-support
need mke2fs e2fsprogs
need mkfs.vfat dosfstools
need mcopy mtools
if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        printf 'board: not installed: %s\n' "${missing[*]}" >&2
        exit 0
    fi
    printf 'board: installing the Debian packages %s\n' "${missing[*]}" >&2
    apt-get update -qq || true
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        "${missing[@]}" >/dev/null || printf 'board: not all could be had\n' >&2
fi
# Programs of the board run here while its Debian is made. Where that isn't permitted, the tests say
# so and are left out, unless that Debian is in the cache.
[ -e /proc/sys/fs/binfmt_misc/status ] ||
    mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc || true
update-binfmts --enable qemu-aarch64 2>/dev/null || true
