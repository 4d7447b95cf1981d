"""Fixtures that several test modules share."""

import os
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def golden_models() -> Path:
    """The folder of the tiny random checkpoints and golden.json."""
    return CHECKOUT / "tests" / "golden"


@pytest.fixture(scope="session")
def shared_models() -> Path:
    """The folder of trained checkpoints, which lie outside the checkout; without them the test is skipped."""
    shared = Path(os.environ.get("STI_SHARED", CHECKOUT.parent / "shared"))
    models = shared / "models"
    if not models.is_dir():
        pytest.skip(f"no trained checkpoints at {models}; set STI_SHARED to the folder that holds models/")
    return models
