"""What a person or a script sees of ``fedmed-site``, and what its process loads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def fedmed_site(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "site_agent", *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after ``statement``."""
    code = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_the_agents_process_loads_neither_torch_nor_transformers_nor_peft() -> None:
    loaded = loaded_by("import site_agent.cli, site_agent.wiring")
    assert "grpc" in loaded
    assert not loaded & {"torch", "transformers", "peft", "accelerate", "tokenizers", "huggingface_hub"}


def test_the_agents_process_loads_nothing_of_the_trainer() -> None:
    code = "import sys, site_agent.cli, site_agent.wiring; print(*(n for n in sys.modules if 'trainer' in n))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert found == ["site_agent.adapters.trainer_process"]


def test_help_loads_no_grpc() -> None:
    assert not loaded_by("import site_agent.cli") & {"grpc", "google", "numpy", "pydantic"}


def test_help_names_the_commands() -> None:
    said = fedmed_site("--help").stdout
    assert all(command in said for command in ("run", "check-config", "health", "extract", "model", "data", "adapter"))


def test_a_wrong_configuration_is_told_without_a_traceback(tmp_path: Path) -> None:
    config = tmp_path / "site.toml"
    config.write_text("site.colour = 1\n")
    ended = fedmed_site("check-config", "--config", str(config))
    assert ended.returncode == 2
    assert ended.stderr.startswith("CONFIG_INVALID: ")
    assert "coordinator: expected a value, got none" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_malformed_notes_are_listed_by_line_and_never_quoted(tmp_path: Path) -> None:
    notes = tmp_path / "notes.jsonl"
    notes.write_text('{"id": "1", "text": "Mrs Confidential"\n[]\n')
    ended = fedmed_site("data", "check", str(notes))
    assert ended.returncode == 1
    assert "notes.jsonl" in ended.stderr
    assert "Confidential" not in ended.stderr + ended.stdout


@pytest.mark.parametrize("arguments", [("extract",), ("adapter", "fetch"), ("run",), ("nonsense",)])
def test_a_command_that_cannot_be_understood_ends_with_2(arguments: tuple[str, ...]) -> None:
    ended = fedmed_site(*arguments)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
