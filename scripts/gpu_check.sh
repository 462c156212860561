#!/usr/bin/env bash
# What has to be seen on a GPU to be believed, in about five minutes, a line each: pass or FAIL, and what was found.
#
#     bash scripts/gpu_check.sh               # on one GPU or more; status 1 where anything failed
#     bash scripts/gpu_check.sh --rehearse    # the same on the CPU, as far as it can
set -euo pipefail
cd "$(dirname "$0")/.."
exec python -m px_seg.benchmark.gpu "$@"
