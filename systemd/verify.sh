#!/usr/bin/env bash
# What systemd itself says of parityd.service: errors in the file, and how exposed the service is.
#
#   systemd/verify.sh [BINARY]        (default: target/release/parityd)
#
# Runs on a copy whose ExecStart names the built binary, because `systemd-analyze verify` wants the one in the file to exist. Ends with
# 1 if the file has a fault or the exposure is over the limit, and says "skipped" where there is no systemd-analyze.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

exposure_max=2.5
binary=$(realpath -m "${1:-target/release/parityd}")

if ! command -v systemd-analyze >/dev/null; then
    echo "skipped: there is no systemd-analyze on this machine"
    exit 0
fi
if [[ ! -x $binary ]]; then
    echo "there is no binary at $binary: build it, or pass its path" >&2
    exit 1
fi

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
unit=$copy/parityd.service
sed "s|/usr/bin/parityd|$binary|" systemd/parityd.service >"$unit"

# The documentation that the unit names is installed with it, not here; everything else it says is a fault.
faults=$(systemd-analyze verify --man=no "$unit" 2>&1 | grep -F parityd.service || true)
if [[ -n $faults ]]; then
    echo "$faults" >&2
    exit 1
fi
echo "verify: no fault"

exposure=$(systemd-analyze security --offline=true "$unit" | sed -n 's/.*Overall exposure level for [^:]*: \([0-9.]*\).*/\1/p')
if [[ -z $exposure ]]; then
    echo "systemd-analyze security told no exposure level" >&2
    exit 1
fi
echo "security: exposure $exposure, at most $exposure_max"
awk -v exposure="$exposure" -v limit="$exposure_max" 'BEGIN { exit !(exposure <= limit) }'
