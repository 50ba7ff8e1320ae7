#!/usr/bin/env bash
# Install what the slow tests use besides a broker. As root only; a test says what it misses.
set -u
missing=()
want() { command -v "$1" >/dev/null || missing+=("${@:2}"); }
want systemd-nspawn systemd-container # units under a real systemd
want mmdebstrap mmdebstrap            # the Debian in there
want swtpm swtpm                      # a TPM 2.0 in software
want swtpm_setup swtpm-tools gnutls-bin # its maker's certificates
want tpm2_quote tpm2-tools              # what an owner prepares a TPM with
want softhsm2-util softhsm2          # tokens in software
want ip iproute2                      # networks of a test's own
want mke2fs e2fsprogs                 # disks that are cut off
want mkfs.vfat dosfstools             # cards
want dbus-daemon dbus-daemon
want sudo sudo
want curl curl
compgen -G "/usr/lib/*/libfuse.so.2" >/dev/null || missing+=(libfuse2) # a stand-in for configfs
# By these systemd talks to that TPM.
compgen -G '/usr/lib/*/libtss2-tcti-swtpm.so.*' >/dev/null ||
    missing+=(libtss2-esys-3.0.2-0 libtss2-rc0 libtss2-mu0 libtss2-tcti-swtpm0)
[ ${#missing[@]} -gt 0 ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    printf 'slow tests: not installed: %s\n' "${missing[*]}" >&2
    exit 0
fi
printf 'slow tests: installing the Debian packages %s\n' "${missing[*]}" >&2
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" \
    >/dev/null || printf 'slow tests: not all could be had; what lacks is said where it is used\n' >&2
