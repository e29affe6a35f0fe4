"""What tests of federations share: a tiny base, and tickets at three sites."""

from __future__ import annotations

from pathlib import Path

import pytest

from federations import Sites, build_sites
from late_rounds import Rounds, open_rounds


@pytest.fixture(scope="package")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Sites:
    return build_sites(tmp_path_factory.mktemp("sites"))


@pytest.fixture
def fresh(tmp_path: Path) -> Sites:
    return build_sites(tmp_path)


@pytest.fixture
def rounds(sites: Sites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rounds:
    return open_rounds(sites, tmp_path, monkeypatch)
