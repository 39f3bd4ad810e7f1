"""NVIDIA FLARE: a provisioned project, its startup kits over mutual TLS, and a job with custom code."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.peers.processes import PeerProcesses, listens
from benchmarks.peers.work import AGGREGATING, SITES, Work, copy_inside
from demo.federation import free_ports

ADMIN = "admin@bench.org"
HOST = "localhost"
BUILDERS = (
    "nvflare.lighter.impl.workspace.WorkspaceBuilder",
    "nvflare.lighter.impl.static_file.StaticFileBuilder",
    "nvflare.lighter.impl.cert.CertBuilder",
    "nvflare.lighter.impl.signature.SignatureBuilder",
)
_BUILDER_ARGUMENTS = {BUILDERS[1]: {"config_folder": "config", "scheme": "grpc"}}


def start_flare(processes: PeerProcesses, folder: Path, work: Work) -> None:
    """Provision, start the processes that the kits' own scripts start, and submit the job."""
    port, admin_port = free_ports(2)
    names = [f"site-{number}" for number in range(1, work.sites + 1)]
    project = folder / "project.yml"  # JSON is YAML
    project.write_text(json.dumps(_project(names, port, admin_port)), encoding="utf-8")
    workspace = folder / "workspace"
    provision = ["nvflare", "provision", "-p", str(project), "-w", str(workspace), "--force"]
    if not processes.run("provision", provision):
        processes.fail("provision")
    kits = workspace / "bench" / "prod_00"
    _keep_files_in(folder, kits / HOST)
    start = ["python", "-u", "-m", "nvflare.private.fed.app.server.server_train", "-m", str(kits / HOST)]
    given = ["--set", "secure_train=true", "org=bench", "config_folder=config"]
    processes.start(AGGREGATING, "server", [*start, "-s", "fed_server.json", *given])
    processes.wait("server", lambda: listens(port))
    for name in names:
        start = ["python", "-u", "-m", "nvflare.private.fed.app.client.client_train", "-m", str(kits / name)]
        uid = f"uid={name}"
        processes.start(SITES, name, [*start, "-s", "fed_client.json", *given[:2], uid, *given[2:]])
    submit = ["nvflare", "job", "submit", "-j", str(_write_job(folder, work)), "--startup-kit", str(kits / ADMIN)]
    processes.run_until_done("submit", submit)
    processes.sign_of_failure = "Try to abort job"


def _project(names: list[str], port: int, admin_port: int) -> dict[str, object]:
    aggregating = {"name": HOST, "type": "server", "org": "bench", "fed_learn_port": port, "admin_port": admin_port}
    admin = {"name": ADMIN, "type": "admin", "org": "bench", "role": "project_admin"}
    sites = [{"name": name, "type": "client", "org": "bench"} for name in names]
    builders = [{"path": path, "args": _BUILDER_ARGUMENTS.get(path, {})} for path in BUILDERS]
    participants = [{**aggregating, "default_host": HOST}, *sites, admin]
    return {"api_version": 3, "name": "bench", "participants": participants, "builders": builders}


def _keep_files_in(folder: Path, kit: Path) -> None:
    """The store of jobs and snapshots lies in one folder for all of a machine, if nothing else is said."""
    default = (kit / "local" / "resources.json.default").read_text(encoding="utf-8")
    own = default.replace("/tmp/nvflare", str(folder / "store"))
    (kit / "local" / "resources.json").write_text(own, encoding="utf-8")


def _write_job(folder: Path, work: Work) -> Path:
    job = folder / "job"
    (job / "app" / "config").mkdir(parents=True)
    (job / "app" / "custom").mkdir()
    copy_inside("flare_app.py", job / "app" / "custom")
    arguments = {"num_clients": work.sites, "num_rounds": work.rounds, "persistor_id": ""}
    nothing: dict[str, object] = {"task_data_filters": [], "task_result_filters": [], "components": []}
    workflow = {"id": "rounds", "path": "flare_app.TimedFedAvg", "args": arguments}
    executor = {"tasks": ["train"], "executor": {"path": "flare_app.EveryTensor", "args": {}}}
    files = {
        "meta.json": {"name": "rounds", "min_clients": work.sites, "deploy_map": {"app": ["@ALL"]}},
        "app/config/config_fed_server.json": {"format_version": 2, "workflows": [workflow], **nothing},
        "app/config/config_fed_client.json": {"format_version": 2, "executors": [executor], **nothing},
    }
    for name, content in files.items():
        (job / name).write_text(json.dumps({**content, "resource_spec": {}}, indent=1), encoding="utf-8")
    return job
