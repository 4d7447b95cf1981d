"""The documentation of the commands is that of their options."""

from pathlib import Path

from tests.cli_reference import reference


def test_the_page_is_up_to_date() -> None:
    page = Path(__file__).parents[1] / "docs" / "cli.md"
    assert page.read_text("utf-8") == reference(), "run: python -m tests.cli_reference > docs/cli.md"
