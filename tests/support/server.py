"""One `oars serve` process with chosen settings, without sidecar, against a given database."""

import base64
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509 import load_pem_x509_certificate
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

STARTED_IN_SECONDS = 60.0
_DETAILS = {
    kind.DESCRIPTOR.full_name: kind
    for kind in (
        error_details_pb2.BadRequest,
        error_details_pb2.ErrorInfo,
        error_details_pb2.PreconditionFailure,
        error_details_pb2.RequestInfo,
        error_details_pb2.RetryInfo,
    )
}


@dataclass(frozen=True)
class Server:
    """A process of the server and where it listens."""

    process: subprocess.Popen[bytes]
    log_file: Path
    address: str
    metrics_url: str

    def channel(self, certificates: Path, name: str) -> grpc.Channel:
        """A channel over TLS with a certificate of a directory."""
        return grpc.secure_channel(
            self.address.replace("127.0.0.1", "localhost"),
            grpc.ssl_channel_credentials(
                (certificates / "ca.pem").read_bytes(),
                (certificates / f"{name}.key").read_bytes(),
                (certificates / f"{name}.pem").read_bytes(),
            ),
            options=(("grpc.enable_retries", 0),),
        )

    def log(self) -> list[dict[str, Any]]:
        """What it has logged."""
        return log_lines(self.log_file)

    def metrics(self) -> str:
        """What Prometheus would read."""
        with urllib.request.urlopen(self.metrics_url, timeout=10) as answer:
            text: str = answer.read().decode()
        return text

    def stop(self, seconds: float = 60.0) -> int:
        """End it by SIGTERM; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


def environment(directory: Path, certificates: Path, **settings: str) -> dict[str, str]:
    """The settings of a server in mode `tls` on free ports; `mtls_mode` means OARS_MTLS_MODE."""
    key_file = directory / "key-encryption-key"
    if not key_file.exists():
        key_file.write_bytes(base64.b64encode(bytes(range(32))))
    found = {name: value for name, value in os.environ.items() if not name.startswith("OARS_")}
    found |= {
        "OARS_MTLS_MODE": "tls",
        "OARS_LISTEN": "127.0.0.1:0",
        "OARS_TLS_CERTIFICATE_FILE": str(certificates / "server.pem"),
        "OARS_TLS_PRIVATE_KEY_FILE": str(certificates / "server.key"),
        "OARS_TLS_CLIENT_CA_FILE": str(certificates / "ca.pem"),
        "OARS_TRUSTED_IDENTITIES_FILE": str(certificates / "trusted-identities.json"),
        "OARS_KEY_ENCRYPTION_KEY_FILE": str(key_file),
        "OARS_METRICS_LISTEN": "127.0.0.1:0",
        "OARS_LAME_DUCK_SECONDS": "0",
    }
    return found | {f"OARS_{name.upper()}": value for name, value in settings.items()}


def launch(
    directory: Path, certificates: Path, database_url: str, **settings: str
) -> tuple[subprocess.Popen[bytes], Path]:
    """Start a server and do not wait for it; the process and its log."""
    directory.mkdir(parents=True, exist_ok=True)
    named = {"database_url": database_url} | settings
    log_file = directory / "server.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "oars_grpc.cli", "serve"],
            env=environment(directory, certificates, **named),
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    return process, log_file


def wait_listening(process: subprocess.Popen[bytes], log_file: Path) -> Server:
    """Wait until the server says where it listens."""
    ends = time.monotonic() + STARTED_IN_SECONDS
    while True:
        events = {line["event"]: line for line in log_lines(log_file)}
        if "listening" in events:
            metrics = events.get("metrics", {"address": ""})["address"]
            url = f"http://{metrics}/metrics"
            return Server(process, log_file, events["listening"]["address"], url)
        alive = process.poll() is None
        assert alive, f"the server ended:\n{log_file.read_text()}"
        assert time.monotonic() < ends, f"the server does not listen:\n{log_file.read_text()}"
        time.sleep(0.05)


@contextmanager
def running_server(
    directory: Path, certificates: Path, database_url: str, **settings: str
) -> Iterator[Server]:
    """A server that listens; ended with the context, if the test has not done so."""
    process, log_file = launch(directory, certificates, database_url, **settings)
    try:
        yield wait_listening(process, log_file)
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process by SIGTERM, or for certain."""
    process.terminate()
    try:
        process.wait(40)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def failed_start(environment_: Mapping[str, str], command: str = "serve") -> tuple[int, str]:
    """Exit code and standard error of a server that should refuse to start."""
    finished = subprocess.run(
        [sys.executable, "-m", "oars_grpc.cli", command],
        env=dict(environment_),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    return finished.returncode, finished.stderr


def log_lines(log_file: Path) -> list[dict[str, Any]]:
    """The JSON lines of a log; the last may be half written."""
    lines = log_file.read_text(encoding="utf-8").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n") and line.startswith("{")]
    return [json.loads(line) for line in whole]


@dataclass(frozen=True)
class Refusal:
    """How an rpc was refused."""

    code: grpc.StatusCode
    reason: str
    message: str
    retry_after_seconds: float | None


def refusal_of(call: Callable[[], object]) -> Refusal:
    """The refusal of a call that must not succeed."""
    try:
        answer = call()
    except grpc.RpcError as error:
        return read_refusal(error)
    raise AssertionError(f"it was not refused: {answer}")


def read_refusal(error: grpc.RpcError) -> Refusal:
    """Code and details of an error of a client."""
    call: Any = error  # what clients raise is the call, too
    status: status_pb2.Status | None = rpc_status.from_call(call)
    reason, retry = "", None
    for packed in status.details if status is not None else ():
        detail: Message = _DETAILS[packed.TypeName()]()
        packed.Unpack(detail)
        if isinstance(detail, error_details_pb2.ErrorInfo):
            reason = detail.reason
        if isinstance(detail, error_details_pb2.RetryInfo):
            retry = detail.retry_delay.ToTimedelta().total_seconds()
    return Refusal(call.code(), reason, call.details() or "", retry)


def forwarded(certificates: Path, name: str) -> tuple[str, str]:
    """The header by which the sidecar vouches for a certificate, sent to a socket directly."""
    certificate = load_pem_x509_certificate((certificates / f"{name}.pem").read_bytes())
    fingerprint = certificate.fingerprint(SHA256()).hex()
    value = f'Hash={fingerprint};Subject="CN={name}";URI=spiffe://oars.dev/{name}'
    return "x-forwarded-client-cert", value


def wait_for(holds: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    """Wait until something holds."""
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends, f"not within {seconds} s: {what}"
        time.sleep(0.05)
