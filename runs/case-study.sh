#!/usr/bin/env bash
# The case study: complex scenes, single model against mixture, all dimensions with paired intervals over prompts and
# seeds. With a GPU and a real pack: runs/case-study.sh --pack PACK --weights WEIGHTS
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PY:-.venv/bin/python}
"$python" -m moe_pipeline case-study --out "${OUT:-docs/case-study}" --seeds 3 "$@"
