"""Looks at this machine for the doctor: disk, ledger, GPU, and what only the trainer's code may look at.

Notes and base model are read by the commands `data check` and `model digest`, as processes of the trainer's; what they
print holds no text of a note. This process opens neither.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.errors import FedMedError
from common.terms import LoraTerms, Quantization, TrainingTerms
from site_agent.adapters.ledger_reading import check_ledger
from site_agent.adapters.trainer_process import trainer_environment
from site_agent.app.doctor import Check, CheckState, failed, judge_disk, judge_memory, ok, skipped
from site_agent.domain.memory_estimate import MemoryNeed, ModelShape, TrainingShape, needed_bytes

CHILD_SECONDS = 600.0
_SHOWN_LINES = 3
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def check_disk(
    state_folder: Path, free: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free
) -> Check:
    """Room where the state folder is, or will be."""
    there = next((folder for folder in (state_folder, *state_folder.parents) if folder.exists()), Path("/"))
    if not os.access(there, os.W_OK | os.X_OK):
        return failed("disk", f"{there}: expected to be allowed to write", "give the folder to the agent's user")
    return judge_disk(free(there), str(there))


def check_chain(state_folder: Path) -> Check:
    """Whether the ledger holds together."""
    try:
        checked = check_ledger(state_folder)
    except FedMedError as error:
        remedy = "keep the ledger's folder under another name as evidence: a new one begins when it is gone"
        return failed("ledger", error.message, remedy)
    except OSError as error:
        return failed("ledger", f"{error.filename}: {error.strerror}", "let the agent's user read it")
    return ok("ledger", f"{checked.head.sequence} entries hold together")


def run_trainer_module(module: str, *arguments: str) -> tuple[int, str, str]:
    """Exit code, output and errors of a module of the trainer."""
    command = [sys.executable, "-P", "-m", f"site_agent.trainer.{module}", *arguments]
    ended = subprocess.run(
        command,
        env=trainer_environment(os.environ, threads=0),
        capture_output=True,
        text=True,
        timeout=CHILD_SECONDS,
        check=False,
    )
    return ended.returncode, ended.stdout, ended.stderr


def check_notes(files: tuple[Path, ...]) -> Check:
    """Whether every record of these files is well-formed, and how many there are."""
    if not files:
        return failed("data", "expected files in [data], got none", "name them in [data]")
    code, said, wrong = run_trainer_module("check_notes", *map(str, files))
    if code == 0:
        return ok("data", said.partition("\n")[0])
    lines = wrong.strip().splitlines()[:_SHOWN_LINES] or [f"exit code {code}"]
    return failed("data", "; ".join(lines), "correct these records; `fedmed-site data check` lists all of them")


def check_base_model(location: str, expected_digest: str) -> Check:
    """Whether the base model can be read, and is the one of the configuration."""
    code, said, wrong = run_trainer_module("base_model_files", location)
    if code != 0:
        detail = (wrong.strip().splitlines() or [f"exit code {code}"])[-1]
        return failed("base_model", detail, "put a folder with safetensors at base_model.location")
    digest = str(tomllib.loads(said)["base_model"]["weights_digest"])
    if expected_digest and digest != expected_digest:
        remedy = "copy the base model again, or correct base_model.weights_digest"
        return failed("base_model", f"expected weights of {expected_digest}, got {digest}", remedy)
    return ok("base_model", f"weights {digest}")


def start_nvml() -> Any:
    """NVIDIA's own binding, started.

    Raises:
        LookupError: There is none, with why.
    """
    try:
        import pynvml
    except ImportError:
        raise LookupError("nvidia-ml-py is not installed") from None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise LookupError(f"the NVIDIA driver does not answer: {error}") from None
    return pynvml


def gpu_words(nvml: Any, handle: Any) -> str:
    """A GPU's name and its driver's version, for people; raises NVIDIA's own NVMLError."""
    return f"{nvml.nvmlDeviceGetName(handle)}, driver {nvml.nvmlSystemGetDriverVersion()}"


def check_gpu(device: str, needed: MemoryNeed | None, nvml: Callable[[], Any] = start_nvml) -> list[Check]:
    """The GPU and its driver, and its memory against ``needed``; None when that could not be estimated.

    Args:
        device: As `trainer.device`.
        needed: On a GPU.
        nvml: NVIDIA's binding.
    """
    if device == "cpu":
        return [skipped("gpu", "trainer.device is cpu"), skipped("gpu_memory", "trainer.device is cpu")]
    try:
        binding = nvml()
        count = binding.nvmlDeviceGetCount()
    except LookupError as error:
        if device == "auto":
            return [skipped("gpu", f"{error}; auto takes the CPU"), skipped("gpu_memory", "no GPU")]
        remedy = "install NVIDIA's driver (`nvidia-smi` must work), or set trainer.device"
        return [failed("gpu", str(error), remedy), skipped("gpu_memory", "no GPU")]
    index = int(device.partition(":")[2] or 0)
    if index >= count:
        remedy = "set trainer.device to one that is there"
        return [failed("gpu", f"expected GPU {index}, got {count} GPUs", remedy), skipped("gpu_memory", "no such GPU")]
    handle = binding.nvmlDeviceGetHandleByIndex(index)
    total = int(binding.nvmlDeviceGetMemoryInfo(handle).total)
    found = gpu_words(binding, handle)
    if needed is None:
        return [ok("gpu", found), skipped("gpu_memory", f"{total / 2**30:.1f} GiB; the base model could not be sized")]
    return [ok("gpu", found), judge_memory("gpu_memory", total, needed)]


def check_memory(gpu: Check, needed: MemoryNeed | None, total: Callable[[], int] | None = None) -> Check:
    """This machine's memory against ``needed``, where training is on its CPU by what was found as ``gpu``."""
    if gpu.state is not CheckState.SKIPPED:
        return skipped("memory", "training is for a GPU")
    if needed is None:
        return skipped("memory", "the base model could not be sized")
    return judge_memory("memory", (total or machine_memory_bytes)(), needed)


def machine_memory_bytes() -> int:
    """What the machine has, or what the container may take, if that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(total, int(_CGROUP_LIMIT.read_text()))
    except (OSError, ValueError):  # no limit, which is the word "max", or none that is told
        return total


def estimate_for(folder: Path, lora: LoraTerms, training: TrainingTerms, *, is_on_gpu: bool) -> MemoryNeed | None:
    """What a round of ``training`` takes of the base model in ``folder``, at each rank up to that of ``lora``.

    None when that cannot be sized.
    """
    try:
        config = json.loads((folder / "config.json").read_bytes())
        bytes_of_weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        hidden, layers, vocabulary = (int(config[key]) for key in ("hidden_size", "num_hidden_layers", "vocab_size"))
        inner, heads = int(config["intermediate_size"]), int(config["num_attention_heads"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    each = 4 if config.get("torch_dtype", config.get("dtype")) == "float32" else 2
    parameters = bytes_of_weights // each
    embeddings = vocabulary * hidden * (1 if config.get("tie_word_embeddings") else 2)
    head_size = int(config.get("head_dim") or hidden // heads)
    queries, keys = heads * head_size, int(config.get("num_key_value_heads") or heads) * head_size
    ends = {"q_proj": queries, "o_proj": queries, "k_proj": keys, "v_proj": keys}
    shape = ModelShape(
        parameters=parameters,
        linear_parameters=max(0, parameters - embeddings),
        hidden_size=hidden,
        layers=layers,
        vocabulary=vocabulary,
    )
    first = TrainingShape(
        adapter_parameters=layers * sum(hidden + ends.get(m, inner) for m in lora.target_modules),
        tokens_per_batch=min(training.tokens_per_batch, training.batch_size * training.max_length),
        is_quantized=training.quantization is Quantization.NF4,
        is_recomputed=training.gradient_checkpointing,
        is_on_gpu=is_on_gpu,
    )
    at_each = (replace(first, adapter_parameters=first.adapter_parameters * n) for n in range(1, lora.lora_rank + 1))
    return MemoryNeed(
        by_rank=tuple(needed_bytes(shape, each) for each in at_each), least_lora_rank=lora.least_lora_rank
    )
