from collections.abc import Iterator

import pytest

from tests.providers.devengine.running import RunningEngine, engine_in
from tests.support.target import Target, running_target


@pytest.fixture(scope="package")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    """One engine for every test that does not restart it; tests keep apart by names of their own."""
    with engine_in(
        tmp_path_factory.mktemp("engine"), ORCH8_ALLOW_INTERNAL_URLS="1", ORCH8_ENV_LABEL="tests"
    ) as running:
        yield running


@pytest.fixture
def target() -> Iterator[Target]:
    """What the steps of a test call."""
    with running_target() as target:
        yield target
