"""What is in the images, and what is not."""

from __future__ import annotations

import pytest

from tests.conftest import Tell
from tests.containers.engine import Engine

pytestmark = pytest.mark.containers

COORDINATOR, SITE_AGENT = "fedmedlora/coordinator", "fedmedlora/site-agent"
MAX_COORDINATOR_BYTES = 400 * 10**6
TRAINING_LIBRARIES = ("accelerate", "peft", "torch", "transformers")


def run(engine: Engine, image: str, *command: str) -> str:
    """What ``command`` prints as root in a fresh container of ``image`` without a network."""
    options = ("--rm", "--network", "none", "--user", "0", "--entrypoint", command[0])
    return engine.docker("run", *options, image, *command[1:])


def test_the_coordinators_image_is_smaller_than_400_mb(federation: Engine, tell: Tell) -> None:
    # The base is made from Debian's packages, and some 40 MB larger than the published debian:bookworm-slim.
    images = ("debian:bookworm-slim", COORDINATOR, SITE_AGENT)
    sizes = {image: int(federation.docker("image", "inspect", "--format", "{{.Size}}", image)) for image in images}
    all_sizes = ", ".join(f"{image} {size / 10**6:.0f} MB" for image, size in sizes.items())
    tell(f"image sizes: {all_sizes}")
    assert sizes[COORDINATOR] < MAX_COORDINATOR_BYTES


def test_the_coordinators_image_has_none_of_the_training_libraries(federation: Engine) -> None:
    program = f"import importlib.util as u; print([n for n in {TRAINING_LIBRARIES} if u.find_spec(n)])"
    assert run(federation, COORDINATOR, "python3", "-c", program).strip() == "[]"
    assert run(federation, SITE_AGENT, "python3", "-c", program).strip() == str(list(TRAINING_LIBRARIES))


@pytest.mark.parametrize("image", [COORDINATOR, SITE_AGENT])
def test_an_image_has_no_installer_no_cache_and_no_checkout(federation: Engine, image: str) -> None:
    leftovers = (
        "-name",
        ".cache",
        "-o",
        "-name",
        ".git",
        "-o",
        "-path",
        "*/bin/pip*",
        "-o",
        "-path",
        "*/apt/lists/*_*",
    )
    assert run(federation, image, "find", "/", "-xdev", "(", *leftovers, "-o", "-path", "/build/*", ")") == ""


@pytest.mark.parametrize("image", [COORDINATOR, SITE_AGENT])
def test_an_image_runs_as_a_user_of_its_own_and_says_how_it_is_checked(federation: Engine, image: str) -> None:
    user = federation.docker("image", "inspect", "--format", "{{.Config.User}} {{.Config.Healthcheck.Test}}", image)
    assert user.startswith("10001:10001 [CMD fedmed-")


def test_the_site_agents_image_never_asks_a_model_hub(federation: Engine) -> None:
    assert run(federation, SITE_AGENT, "printenv", "HF_HUB_OFFLINE").strip() == "1"
