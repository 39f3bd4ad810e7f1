"""Flower: a SuperLink over TLS that knows the SuperNodes' keys, and a SuperNode for each site."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from benchmarks.peers.processes import PeerProcesses, listens
from benchmarks.peers.work import AGGREGATING, SITES, Work, copy_inside
from common.tls import CERTIFICATE_FILE, KEY_FILE, TRUST_BUNDLE_FILE, Role
from coordinator.adapters.pki.ca import create_ca, issue
from demo.federation import free_ports
from demo.prepare import COORDINATOR_HOSTS

PROJECT = """[project]
name = "rounds"
version = "1.0.0"
description = "Rounds without training"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "benchmarks"

[tool.flwr.app.components]
serverapp = "flower_app:server"
clientapp = "flower_app:client"
"""


def start_flower(processes: PeerProcesses, folder: Path, work: Work) -> None:
    """Start everything, and submit the app."""
    create_ca(folder / "ca", "benchmark")
    identity = folder / "superlink"
    issue(folder / "ca", "coordinator", Role.COORDINATOR, identity, hosts=COORDINATOR_HOSTS)
    port, *own_ports = free_ports(1 + work.sites)
    trust = str(identity / TRUST_BUNDLE_FILE)
    _configure(folder, port, trust)
    certificate = ["--ssl-certfile", str(identity / CERTIFICATE_FILE), "--ssl-keyfile", str(identity / KEY_FILE)]
    listen = ["--host", "127.0.0.1", "--port", str(port), "--ssl-ca-certfile", trust]
    checks = ["--enable-supernode-auth", "--disable-runtime-dependency-installation"]
    processes.start(AGGREGATING, "superlink", ["flower-superlink", *listen, *certificate, *checks])
    processes.wait("superlink", lambda: listens(port))
    for number, own_port in enumerate(own_ports, start=1):
        key = _write_key(folder / f"site-{number}")
        processes.run_until_done("register", ["flwr", "supernode", "register", f"{key}.pub", "bench"])
        reach = ["--superlink", f"localhost:{port}", "--root-certificates", trust]
        own = ["--auth-supernode-private-key", str(key), "--host", "127.0.0.1", "--port", str(own_port)]
        processes.start(SITES, f"supernode-{number}", ["flower-supernode", *reach, *own])
    processes.sign_of_failure = "Traceback"
    processes.run_until_done("submit", ["flwr", "run", str(folder / "app"), "bench"])


def _configure(folder: Path, port: int, trust: str) -> None:
    app = folder / "app"
    app.mkdir()
    (app / "pyproject.toml").write_text(PROJECT, encoding="utf-8")
    copy_inside("flower_app.py", app)
    home = folder / "home" / "flwr"
    home.mkdir(parents=True)
    config = f'[superlink]\ndefault = "bench"\n\n[superlink.bench]\naddress = "localhost:{port}"\n'
    (home / "config.toml").write_text(f'{config}root-certificates = "{trust}"\n', encoding="utf-8")


def _write_key(path: Path) -> Path:
    key = ec.generate_private_key(ec.SECP384R1())
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    path.with_suffix(".pub").write_bytes(key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
    return path
