"""``fedmed-lab``: check an experiment's file, run it (again and again, until it is done), report what there is."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from common.errors import FedMedError, Reason
from common.ids import Digest
from lab.arms import Bench
from lab.cells import Cell, Done
from lab.corpora import Corpora
from lab.encoder.arms import EncoderBench
from lab.encoder.averaging import Means
from lab.encoder.course import Works
from lab.encoder.folder import describe_encoder
from lab.estimate import EstimatingWorkshop, measured_rates
from lab.experiment import Experiment, load_experiment
from lab.findings import Kept
from lab.kept import read_kept
from lab.options import CHECK, REPORT, Options, parse_options
from lab.playing import failures, play_all
from lab.reports import check, found_in, told, write_report
from lab.rounds import Machine
from lab.slots import Slots
from lab.workshop import Store, WorkingWorkshop, Workshop
from site_agent.adapters.trainer_process import TrainerProcess, trainer_environment
from site_agent.trainer.base_model_files import describe_base_model, resolve_base_model

ENCODER_COMMAND = (sys.executable, "-P", "-m", "lab.encoder")


def main() -> None:
    """The console script: 0 when all is there, 1 when something failed, 130 after Ctrl-C."""
    try:
        sys.exit(run(parse_options(sys.argv[1:])))
    except FedMedError as error:
        print(error.message, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("stopped; call it again to go on", file=sys.stderr)
        sys.exit(130)


def run(options: Options) -> int:
    """Do the step asked for; returns the exit code."""
    experiment = load_experiment(options.file)
    folder = options.out / experiment.name
    known = read_kept(options.findings) | found_in(folder)
    if options.is_dry:
        for estimated in asyncio.run(_estimate(experiment, options, known)):
            _print(told(estimated, options.at_once))
        return 0
    ends_at = time.monotonic() + options.until_seconds
    is_over = (lambda: True) if options.step in (CHECK, REPORT) else (lambda: time.monotonic() >= ends_at)
    slots = Slots(options.at_once, is_over)
    bench = _bench(experiment, options, _workshop(options, slots))
    encoders = _encoders(bench, options, _encoder_workshop(options, slots))
    _print(check(bench))
    if options.step == CHECK:
        encoders.check()
        return 0
    findings = asyncio.run(play_all(bench, encoders, known))
    _print(map(str, write_report(folder, experiment, findings)))
    _print(f"missing: {one.arm}, seed {one.seed}: {one.why}" for one in findings.missing)
    return int(bool(failures(findings)))


async def _estimate(experiment: Experiment, options: Options, known: Mapping[Digest, Kept]) -> list[EstimatingWorkshop]:
    """Of adapters, and of encoders where the experiment has any."""
    slots = Slots(1, lambda: False)
    adapters = _estimating(_workshop(options, slots))
    encoders = _estimating(_encoder_workshop(options, slots))
    bench = _bench(experiment, options, adapters)
    findings = await play_all(bench, _encoders(bench, options, encoders), known)
    for one in failures(findings):
        raise FedMedError(Reason.INTERNAL, f"{one.arm}, seed {one.seed}: {one.why}")
    return [adapters, encoders] if any(arm.model == "encoder" for arm in experiment.arms) else [adapters]


def _estimating(working: WorkingWorkshop) -> EstimatingWorkshop:
    return EstimatingWorkshop(store=working.store, working=working, rates=measured_rates(working.store))


def _bench(experiment: Experiment, options: Options, workshop: Workshop) -> Bench:
    folder = resolve_base_model(options.base_model).resolve()
    return Bench(
        experiment=experiment,
        corpora=Corpora(root=options.data, cache=options.out / "notes"),
        machine=Machine(base_model=str(folder), device=options.device, threads=options.threads),
        base_model=describe_base_model(folder, folder.name),
        workshop=workshop,
    )


def _workshop(options: Options, slots: Slots) -> WorkingWorkshop:
    trainer = TrainerProcess(trainer_environment(os.environ, options.threads))
    return WorkingWorkshop(store=Store(folder=options.out), trainer=trainer, slots=slots, tell=_tell)


def _encoder_workshop(options: Options, slots: Slots) -> WorkingWorkshop:
    """Beside that of adapters, so that the cells of neither are taken for the other's when time is estimated."""
    trainer = TrainerProcess(trainer_environment(os.environ, options.threads), command=ENCODER_COMMAND)
    return WorkingWorkshop(store=Store(folder=options.out / "encoder"), trainer=trainer, slots=slots, tell=_tell)


def _encoders(bench: Bench, options: Options, workshop: Workshop) -> EncoderBench:
    try:
        base = describe_encoder(options.encoder)
    except FedMedError as error:
        return EncoderBench(bench=bench, works=None, missing=error.message)
    works = Works(
        workshop=workshop,
        means=Means(folder=options.out / "encoder" / "means"),
        machine=Machine(base_model=str(options.encoder), device=options.device, threads=options.threads),
        base=base,
    )
    return EncoderBench(bench=bench, works=works)


def _tell(cell: Cell, done: Done) -> None:
    seconds = timedelta(seconds=round(getattr(done.result, "seconds", 0.0)))
    _print([f"{datetime.now().astimezone():%H:%M:%S} {cell.says} ({seconds})"])


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        print(line, flush=True)
