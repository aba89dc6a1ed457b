"""Shared by all tests: a store and a cache of their own, so that no test touches the user's."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def _quiet_environment(tmp_path_factory: pytest.TempPathFactory) -> None:
    import os

    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    os.environ["LAB_HOME"] = str(tmp_path_factory.mktemp("home"))
