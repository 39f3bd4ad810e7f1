"""``python -m demo``: prepare, run the federation, score, report. ``python -m demo prepare`` stops before the start."""

from __future__ import annotations

import json
import os
import sys
from math import prod
from pathlib import Path

from common.tls import harden_tls

harden_tls()  # before anything imports grpc: TLS 1.3 only
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # processes are started, never forked into
os.environ.setdefault("no_grpc_proxy", "localhost,127.0.0.1")  # a proxy cannot reach this machine's loopback

from rich.console import Console  # noqa: E402

from common.errors import FedMedError  # noqa: E402
from common.weights_io import WeightsReader  # noqa: E402
from demo.federation import Federated, run_federation  # noqa: E402
from demo.findings import BaseModelSize, DemoFindings  # noqa: E402
from demo.options import DemoOptions, PrepareOptions, parse_options  # noqa: E402
from demo.prepare import Addresses, prepare  # noqa: E402
from demo.processes import ProcessGroup, process_group  # noqa: E402
from demo.report import print_report, write_report  # noqa: E402
from demo.scoring import Scorer, chains_at_once  # noqa: E402
from site_agent.trainer.base_model_files import resolve_base_model  # noqa: E402

LINE_WIDTH = 120  # of a log, which has none of its own


def main() -> int:
    """Do the step asked for; 130 after Ctrl-C, 1 when something failed, with one sentence that says what."""
    options, addresses = parse_options(sys.argv[1:])
    console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else LINE_WIDTH)
    try:
        if addresses is None:
            with process_group(options.out / "logs") as group:
                _demo(options, group, console)
        else:
            _prepare(options, addresses, console)
    except KeyboardInterrupt:
        console.print("stopped; nothing is left running")
        return 130
    except (FedMedError, OSError, RuntimeError) as error:
        console.print(str(error), style="red", soft_wrap=True, markup=False, highlight=False)
        return 1
    return 0


def _prepare(options: DemoOptions, addresses: PrepareOptions, console: Console) -> None:
    prepared = prepare(
        options,
        Addresses(
            coordinator=addresses.coordinator,
            coordinator_listen=addresses.coordinator_listen,
            enrolment_listen=addresses.enrolment_listen,
            metrics=[addresses.metrics_listen] * (options.sites + 2),
            base_model=addresses.base_model,
        ),
    )
    console.print(f"prepared in {options.out}: {', '.join(prepared.agent_configs)}", soft_wrap=True)


def _demo(options: DemoOptions, group: ProcessGroup, console: Console) -> None:
    at_once = chains_at_once(options.device)
    federated = run_federation(options, group, console)
    prepared = federated.prepared
    console.print("federation done; now scoring it beside the base model and each site on its own")
    scores = Scorer(
        options=options,
        terms=prepared.terms,
        corpora=prepared.corpora,
        folder=options.out / "scores",
        federated=federated.adapter_folder / "adapter_model.safetensors",
        at_once=at_once,
    ).score(group, console)
    found = DemoFindings(
        run=federated.run,
        release=federated.release,
        base_model=_size(resolve_base_model(options.base_model)),
        scores=scores,
        sites=[corpus.site for corpus in prepared.corpora],
        adapter_folder=federated.adapter_folder,
        adapter_parameters=_parameters([federated.adapter_folder / "adapter_model.safetensors"]),
        base_model_location=options.base_model,
        sample_note=_sample_note(options, federated),
    )
    write_report(options.out / "report.json", found)
    print_report(console, found, options.out / "report.json")


def _sample_note(options: DemoOptions, federated: Federated) -> Path:
    """The first held-out passage as a note of its own, to try the adapter on."""
    with federated.prepared.corpora[0].test.open(encoding="utf-8") as lines:
        text = json.loads(next(lines))["text"]
    note = options.out / "note.txt"
    note.write_text(text + "\n", encoding="utf-8")
    return note


def _size(folder: Path) -> BaseModelSize:
    files = sorted(folder.glob("*.safetensors"))
    return BaseModelSize(parameters=_parameters(files), bytes=sum(file.stat().st_size for file in files))


def _parameters(files: list[Path]) -> int:
    total = 0
    for file in files:
        with WeightsReader(file) as reader:
            total += sum(prod(slot.shape) for slot in reader.layout.tensors)
    return total


if __name__ == "__main__":
    sys.exit(main())
