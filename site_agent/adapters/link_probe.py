"""Looks at the way to the coordinator, step by step: name, proxy, connection, TLS. It sends no message.

gRPC takes its proxy from the same variables (https://grpc.github.io/grpc/core/md_doc_environment_variables.html).
"""

from __future__ import annotations

import fnmatch
import os
import socket
import ssl
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from common.tls import CERTIFICATE_FILE, KEY_FILE
from site_agent.app.doctor import Check, failed, ok, skipped

CONNECT_SECONDS = 10.0
_MAX_ANSWER_BYTES = 8192
_INSPECTED = "something on the way opens TLS: let the firewall or proxy pass this host through without inspection"


def proxy_for(host: str, environment: Mapping[str, str] = os.environ) -> str:
    """The proxy that gRPC would take for ``host``; empty for none."""
    for name in ("no_grpc_proxy", "no_proxy"):
        patterns = [part.strip().lstrip("*.") for part in environment.get(name, "").split(",") if part.strip()]
        if any(host == each or fnmatch.fnmatch(host, f"*.{each}") for each in patterns):
            return ""
    names = ("grpc_proxy", "https_proxy", "http_proxy")
    return next((environment[name] for name in names if environment.get(name)), "")


def check_name(host: str) -> Check:
    """Whether the coordinator's name, or with a proxy the proxy's, has an address."""
    try:
        found = {str(address[4][0]) for address in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError as error:
        return failed(
            "dns", f"{host}: {error.strerror}", "check coordinator.address, /etc/resolv.conf and the DNS server"
        )
    return ok("dns", f"{host} is {', '.join(sorted(found)[:3])}")


def connect(address: str, proxy: str) -> tuple[Check, socket.socket | None]:
    """Open a connection to the coordinator, through ``proxy`` if there is one (HTTP CONNECT, RFC 9110, 9.3.6)."""
    name = "connection"
    through = f" through the proxy {_without_password(proxy)}" if proxy else ""
    host, _, port = address.rpartition(":")
    try:
        there = urlsplit(proxy) if proxy else None
        target = (there.hostname or "", there.port or 80) if there is not None else (host.strip("[]"), int(port))
        opened = socket.create_connection(target, CONNECT_SECONDS)
        if proxy:
            answer = _ask_proxy(opened, address)
            if " 200" not in answer:
                opened.close()
                remedy = f"let the proxy allow CONNECT to {address}, or name the host in no_proxy"
                return failed(name, f"expected the proxy to answer 200, got {answer[:80]!r}", remedy), None
    except (OSError, ValueError) as error:
        detail = f"{address}{through}: {getattr(error, 'strerror', None) or type(error).__name__}"
        return failed(name, detail, f"let the firewall pass TCP to {address}; is the coordinator up?"), None
    return ok(name, f"{address}{through} answers"), opened


def _ask_proxy(opened: socket.socket, address: str) -> str:
    opened.sendall(f"CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer and len(answer) < _MAX_ANSWER_BYTES:
        part = opened.recv(_MAX_ANSWER_BYTES)
        if not part:
            break
        answer += part
    return answer.split(b"\r\n", 1)[0].decode("ascii", "replace")


def _without_password(proxy: str) -> str:
    there = urlsplit(proxy)
    return f"{there.hostname}:{there.port or 80}"


def check_tls(opened: socket.socket, identity_folder: Path, trusted_pem: bytes, name: str, now: datetime) -> Check:
    """Whether what answers shows a certificate of the trust bundle, for ``name``, that is valid ``now``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # what it shows is looked at below, whoever signed it
    context.set_alpn_protocols(["h2"])
    try:
        context.load_cert_chain(identity_folder / CERTIFICATE_FILE, identity_folder / KEY_FILE)
        with context.wrap_socket(opened, server_hostname=name) as secured:
            shown = secured.getpeercert(binary_form=True)
            version = secured.version()
    except OSError as error:
        remedy = "is there a coordinator at this port, and no firewall that opens TLS?"
        return failed(
            "tls", f"expected a TLS handshake, got {getattr(error, 'reason', None) or error.strerror}", remedy
        )
    if not shown:
        return failed("tls", "expected a certificate, got none", "is there a coordinator at this port?")
    return judge_certificate(x509.load_der_x509_certificate(shown), trusted_pem, name, now) or ok(
        "tls", f"{version}, certificate of {name} from the trust bundle"
    )


def judge_certificate(shown: x509.Certificate, trusted_pem: bytes, name: str, now: datetime) -> Check | None:
    """What is wrong with the certificate that the other side shows; None when nothing is."""
    trusted = x509.load_pem_x509_certificates(trusted_pem)
    if not any(_is_issued_by(shown, each) for each in trusted):
        expected, got = ", ".join(_name_of(each.subject) for each in trusted), _name_of(shown.issuer)
        if shown.issuer in {each.subject for each in trusted}:
            remedy = (
                "the coordinator has another CA of the same name: ask the operator for the trust bundle of this one"
            )
            return failed(
                "tls", f"expected a certificate signed by the trust bundle's {expected}, got another key's", remedy
            )
        remedy = f"{_INSPECTED}. If nothing inspects, the trust bundle is of another consortium: ask the operator"
        return failed("tls", f"expected a certificate issued by {expected}, got one issued by {got}", remedy)
    if not shown.not_valid_before_utc <= now <= shown.not_valid_after_utc:
        span = f"{shown.not_valid_before_utc:%Y-%m-%d %H:%M} to {shown.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
        remedy = "if this machine's clock is right, the operator must renew the coordinator's certificate"
        return failed("tls", f"expected a certificate that is valid now, got one from {span}", remedy)
    if name not in (names := _hosts_of(shown)):
        remedy = "set coordinator.server_name to the name in its certificate, or correct coordinator.address"
        return failed("tls", f"expected a certificate for {name}, got one for {', '.join(names) or 'no host'}", remedy)
    return None


def _is_issued_by(shown: x509.Certificate, ca: x509.Certificate) -> bool:
    try:
        shown.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _name_of(name: x509.Name) -> str:
    """The whole name, as far as it can be printed."""
    return repr("".join(character for character in name.rfc4514_string() if character.isprintable())[:120])


def _hosts_of(shown: x509.Certificate) -> list[str]:
    try:
        names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]


def not_looked(name: str, because: str) -> Check:
    """A step that was not made, because an earlier one failed."""
    return skipped(name, f"not looked at, because {because} failed")
