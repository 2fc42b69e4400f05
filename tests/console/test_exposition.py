"""What `/metrics` exports passes a linter, and the dashboard and the alert rules ask for nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prometheus_client", reason="pip install -e '.[console]'")

import yaml
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.console.exposition_lint import lint
from tests.console.test_history import look, said
from walrus.console.exposition import exposition
from walrus.health import Durations, TopicFigures, judge

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana-dashboard.json").read_text(encoding="utf-8"))
RULES: dict[str, Any] = yaml.safe_load((DEPLOY / "alerts.yml").read_text(encoding="utf-8"))
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"]]


def text() -> str:
    """Everything that is ever exported: all families, each with a sample."""
    took = Durations([0.001, 0.01], [2, 1, 1], 0.5)
    topic = TopicFigures(
        segments=2, entries=9, lag={"": 4, 'a"b\\\n': 5}, out={'a"b\\\n': 2}, skipped={"": 3}
    )
    more = {
        "put_seconds": took,
        "append_durable_seconds": took,
        "append_acknowledged_seconds": took,
        "sync_seconds": {"raft": took, "data": took},
        "topics_led": {"orders": topic},
    }
    return exposition(judge(look(said(1, **more), said(2, **more), said(3)))).decode()


def families() -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(text())}


def test_the_exposition_passes_the_linter_whatever_the_names_of_topics_and_groups_are() -> None:
    assert lint(text()) == []
    assert lint(exposition(judge({})).decode()) == [], "also of a cluster of which nothing is known"


def test_a_group_that_missed_nothing_says_0_so_that_its_first_miss_is_an_increase() -> None:
    shown = text()
    assert 'walrus_group_skipped_entries_total{group="",topic="orders"} 3.0' in shown
    assert 'walrus_group_dead_letters_total{group="",topic="orders"} 0.0' in shown


def test_wrong_tokens_are_counted_where_nodes_ask_for_tokens_and_0_elsewhere() -> None:
    shown = exposition(judge(look(said(1, wrong_tokens=3), said(2), said(3)))).decode()
    assert 'walrus_wrong_tokens_total{node="1"} 3.0' in shown
    assert 'walrus_wrong_tokens_total{node="2"} 0.0' in shown


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ("a_b 1", "the last line has no end"),
        ("a_b 1\n", "has no HELP and TYPE"),
        ("# HELP a_b x\n# TYPE a_b gauge\na_b{x=1} 1\n", "cannot be parsed"),
        ("# HELP a_ms x\n# TYPE a_ms gauge\na_ms 1\n", "ms is no base unit"),
        ("# HELP aB x\n# TYPE aB gauge\naB 1\n", "snake_case"),
        ("# HELP a_total x\n# TYPE a_total gauge\na_total 1\n", "only a counter"),
        ("# HELP a x\n# TYPE a counter\na 1\n", "a counter ends with _total"),
        ("# HELP a x\n# TYPE a gauge\na 1\na 2\n", "twice"),
        ("# TYPE a gauge\na 1\n", "no HELP"),
        ("# HELP a x\n# TYPE a histogram\na_bucket{le=\"1\"} 2\na_count 2\na_sum 1\n", "no bucket +Inf"),
        (
            '# HELP a x\n# TYPE a histogram\na_bucket{le="1"} 2\na_bucket{le="+Inf"} 1\na_count 1\na_sum 1\n',
            "not cumulated",
        ),
    ],
)  # fmt: skip
def test_the_linter_notices(wrong: str, reason: str) -> None:
    assert any(reason in line for line in lint(wrong)), lint(wrong)


def expressions() -> dict[str, str]:
    """Every question that the dashboard and the rules ask, by where it stands."""
    asked = {f"alert {rule['alert']}": rule["expr"] for rule in ALERTS}
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            asked[f"panel {panel['title']}: {target['refId']}"] = target["expr"]
    return asked


def test_the_dashboard_and_the_rules_ask_only_for_what_is_exported_by_labels_that_it_has() -> None:
    exported = {sample.name for family in families().values() for sample in family.samples}
    labels = {label for f in families().values() for s in f.samples for label in s.labels}
    for where, expression in expressions().items():
        assert (named := set(re.findall(r"\bwalrus_\w+", expression))), where
        assert named <= exported, (where, named - exported)
        for by in re.findall(r"by \(([^)]*)\)", expression):
            assert {label.strip() for label in by.split(",")} <= labels, (where, by)
        for label in re.findall(r"[{,]\s*(\w+)\s*=[~]?\"", expression):
            assert label in labels, (where, label)
        assert expression.count("(") == expression.count(")"), where


def test_every_family_is_on_the_dashboard_or_in_a_rule() -> None:
    asked = " ".join(expressions().values())
    unseen = {name for name in families() if not re.search(rf"\b{name}(_total|_bucket)?\b", asked)}
    assert unseen == set()


def test_every_rule_says_what_is_wrong_and_what_to_do_and_every_panel_has_a_title_and_a_place() -> None:
    for rule in ALERTS:
        assert rule["labels"]["severity"] in ("page", "ticket"), rule["alert"]
        assert set(rule["annotations"]) == {"summary", "description"}, rule["alert"]
        for name in re.findall(r"\$labels\.(\w+)", str(rule["annotations"])):
            assert name in {label for f in families().values() for s in f.samples for label in s.labels}
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in DASHBOARD["panels"]]
    assert len(set(places)) == len(places) and all(panel["title"] for panel in DASHBOARD["panels"])
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
