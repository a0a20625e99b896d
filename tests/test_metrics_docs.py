"""docs/metrics.md is made from the catalogue and stays so."""

from pathlib import Path

from moe_pipeline.metrics import METRICS
from moe_pipeline.metrics.reference import catalogue_table, renewed
from moe_pipeline.metrics.weights import WEIGHTS

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "metrics.md"


def test_the_tables_are_current():
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text == renewed(text), "run `python -m moe_pipeline.metrics.reference docs/metrics.md`"


def test_every_metric_and_network_has_its_row():
    text = DOCUMENT.read_text(encoding="utf-8")
    for name in METRICS:
        assert f"| `{name}` |" in text
    for source in WEIGHTS.values():
        assert f"`{source.wanted}`" in text


def test_a_changed_catalogue_shows(monkeypatch):
    text = DOCUMENT.read_text(encoding="utf-8")
    name = "loop_closure"
    monkeypatch.setitem(METRICS, name, METRICS[name].model_copy(update={"title": "Another title"}))
    assert "Another title" in catalogue_table() and renewed(text) != text


def test_every_entry_explains_itself():
    for info in METRICS.values():
        assert info.plain_words.endswith(".") and len(info.plain_words) < 130
        assert info.formula and info.source and info.cost and info.low < info.high
