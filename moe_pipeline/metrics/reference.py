"""The table of docs/metrics.md, made from the catalogue: `python -m moe_pipeline.metrics.reference docs/metrics.md`."""

from __future__ import annotations

import sys
from pathlib import Path

from moe_pipeline.metrics.catalogue import METRICS
from moe_pipeline.metrics.weights import WEIGHTS
from moe_pipeline.schema.metrics import MetricInfo

EXACTNESS = {
    "vbench": "VBench, exactly",
    "vbench-definition": "VBench's definition and network",
    "stand-in": "stand-in",
    "own": "own",
}
DIRECTION = {"higher": "higher is better", "lower": "lower is better", "none": "neither"}
BLOCKS = ("catalogue", "weights")


def catalogue_table() -> str:
    """Markdown table, one row a metric."""
    rows = [
        "| dimension | name here | exact or stand-in | range | direction | definition | cost | source |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, info in METRICS.items():
        cells = (
            info.title,
            f"`{name}`",
            _kind(info),
            _range(info),
            DIRECTION[info.direction],
            info.formula,
            info.cost,
            info.source,
        )
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def _kind(info: MetricInfo) -> str:
    kind = EXACTNESS[info.exact]
    return f"{kind} for `{info.dimension}`" if info.exact == "stand-in" else kind


def _range(info: MetricInfo) -> str:
    text = f"{info.low:g} and up" if info.open_ended else f"{info.low:g} to {info.high:g}"
    return f"{text} ({info.unit})" if info.unit else text


def weights_table() -> str:
    """Markdown table of the networks' weights: what lies where in a weights folder, and where it comes from."""
    users: dict[str, list[str]] = {key: [] for key in WEIGHTS}
    for name, info in METRICS.items():
        for need in info.needs:
            if need.startswith("weights:"):
                users[need.removeprefix("weights:")].append(f"`{name}`")
    rows = ["| network | in the weights folder | used by | from |", "| --- | --- | --- | --- |"]
    rows += [
        f"| {source.title} | `{source.wanted}` | {', '.join(users[key])} | {source.origin} |"
        for key, source in WEIGHTS.items()
    ]
    return "\n".join(rows)


def renewed(text: str) -> str:
    """The document with its generated blocks made anew; a block lies between its two comment lines."""
    for name, table in zip(BLOCKS, (catalogue_table(), weights_table()), strict=True):
        begin, end = f"<!-- {name}: generated -->\n", f"<!-- /{name} -->"
        head, _, rest = text.partition(begin)
        _, _, tail = rest.partition(end)
        text = f"{head}{begin}{table}\n{end}{tail}"
    return text


def main() -> None:
    """Renew the document named on the command line."""
    path = Path(sys.argv[1])
    path.write_text(renewed(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
