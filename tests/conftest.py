"""Fixtures that several test files share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The real annotations and photos (RMLR_REAL_DATA, else ../shared/data beside the repository)."""
    default = Path(__file__).parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("RMLR_REAL_DATA", default))
    if not (folder / "annotations").is_dir():
        pytest.skip(f"real annotations are not at {folder}; set RMLR_REAL_DATA to their folder")
    return folder
