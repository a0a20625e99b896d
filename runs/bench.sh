#!/usr/bin/env bash
# Latency, first preview, cold start and memory of the default clip on this machine, which should be quiet.
# Writes bench.json and bench.md with the environment they hold for.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PY:-.venv/bin/python}
"$python" -m moe_pipeline bench --out "${OUT:-docs/bench}" "$@"
