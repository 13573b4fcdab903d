"""The generated pages are current, and nothing that a user can name is undocumented."""

import pytest

from commands.docs import DOCS, pages
from infra.metrics import METRICS
from infra.settings import rows
from prodrome import COMMANDS
from schemas.reasons import REASONS
from schemas.topics import TOPICS


def test_the_generated_pages_are_current() -> None:
    """After a change of a table: `make docs`."""
    for name, text in pages().items():
        assert (DOCS / name).read_text() == text


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("commands.md", [f"## prodrome {name}" for name in COMMANDS]),
        ("configuration.md", [f"`{row.name}`" for row in rows()]),
        ("metrics.md", [f"`{metric.name}`" for metric in METRICS]),
        ("topics.md", [f"| `{topic.name}` |" for topic in TOPICS]),
        ("reasons.md", [f"| `{reason}` |" for reason in REASONS]),
    ],
)
def test_everything_is_documented(page: str, names: list[str]) -> None:
    """Every command, setting, metric, topic and reason word has its line."""
    text = (DOCS / page).read_text()
    assert [name for name in names if name not in text] == []


def test_every_setting_and_metric_says_what_it_is() -> None:
    """No line of a table is empty where a person looks for the meaning."""
    assert all(row.doc for row in rows())
    assert all(metric.help for metric in METRICS)
