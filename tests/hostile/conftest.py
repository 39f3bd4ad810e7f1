"""One coordinator for all attacks of a module: what an attack leaves behind meets the next one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.hostile.scene import Scene, descriptor_limit, honest_round, unhurt
from tests.running import make_consortium, running_coordinator


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("hostile")
    with ExitStack() as stack:
        with descriptor_limit(1024):  # what a service manager gives a process that does not ask for more
            running = running_coordinator(make_consortium(folder), poll_hold="1s", stream_progress_deadline="1s")
            coordinator = stack.enter_context(running)
        scene = Scene(coordinator=coordinator, folder=folder)
        with honest_round(scene) as assignments:  # what the first round ever allocates is no leak
            scene.upload("anna", assignments["anna"], scene.update(seed=1))
        yield scene


@pytest.fixture
def guarded(scene: Scene) -> Iterator[Scene]:
    """The scene; when the test has ended, nothing may have leaked, and an honest site gets through a round."""
    with unhurt(scene):
        yield scene
