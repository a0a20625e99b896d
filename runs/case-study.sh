#!/usr/bin/env bash
# The case study: complex scenes, single model against mixture, all dimensions with paired intervals over prompts and
# seeds. With a GPU and a real pack: runs/case-study.sh --pack PACK --weights WEIGHTS
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PY:-.venv/bin/python}
"$python" -m moe_pipeline case-study --out "${OUT:-docs/case-study}" --seeds 3 "$@"
# The interactive plots (4 MB each) stay out of git, so the report that is committed does not link to them.
if [ -z "${OUT:-}" ]; then
    sed -i '/^Interactive: /,+1d' docs/case-study/report.md
fi
