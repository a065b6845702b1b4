"""The account that the embedded Postgres runs as, with no more privilege than it needs."""

import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from oars_grpc.errors import ConfigurationError

# Nothing of ours reaches the server by accident: neither secrets nor PGPORT and its like.
ENVIRONMENT = {"LC_ALL": "C", "PATH": os.defpath, "TZ": "UTC"}
_FIX = "Or run as an ordinary user, or set OARS_DATABASE_URL to a Postgres of your own."
# The least that lets an unprivileged account pass the closed directories above its own, in order.
# The second also lets it write anywhere, but is the one that containers usually have.
_CAPABILITIES = (None, "dac_read_search", "dac_override")


@dataclass(frozen=True, slots=True)
class Account:
    """Whom the server runs as: this user, or an unprivileged one because Postgres refuses root."""

    uid: int
    gid: int
    prefix: tuple[str, ...] = ()

    @classmethod
    def for_cluster(cls, data: Path) -> Self:
        """The owner of the cluster, or of the one to be made."""
        owner = data.stat() if data.exists() else None
        if os.geteuid() != 0:
            if owner is not None and owner.st_uid != os.geteuid():
                raise ConfigurationError(f"{data} belongs to another user (uid {owner.st_uid})")
            return cls(os.geteuid(), os.getegid())
        if owner is not None and owner.st_uid == 0:
            raise ConfigurationError(f"{data} belongs to root, as whom Postgres does not run")
        if owner is not None:
            return cls(owner.st_uid, owner.st_gid)
        for name in ("postgres", "nobody"):
            with suppress(KeyError):
                entry = pwd.getpwnam(name)
                return cls(entry.pw_uid, entry.pw_gid)
        raise ConfigurationError(
            f"Postgres does not run as root and no other user is known. {_FIX}"
        )

    def make_directory(self, path: Path) -> None:
        """Create a directory for this account alone, or make sure that it is one."""
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
        if (
            not stat.S_ISDIR(found.st_mode)
            or found.st_mode & 0o077
            or found.st_uid not in (self.uid, os.geteuid())
        ):
            raise ConfigurationError(f"{path} is not a private directory of uid {self.uid}")
        if found.st_uid != self.uid:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def reaching(self, binaries: Path, *directories: Path) -> "Account":
        """This account with the least privilege that lets it reach all of these paths."""
        if self.uid == os.geteuid():
            return self
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            raise ConfigurationError(f"`setpriv` (util-linux) is missing, which root needs. {_FIX}")
        drop = [setpriv, f"--reuid={self.uid}", f"--regid={self.gid}", "--clear-groups"]
        probes = [["stat", "--", *(f"{directory}/." for directory in directories)]]
        probes += [[str(binaries / "pg_config"), "--bindir"]]  # finds itself as the server does
        failures: list[str] = []
        for name in _CAPABILITIES:
            grant = [f"--inh-caps=+{name}", f"--ambient-caps=+{name}"] if name else []
            # Without this bit access(2), by which Postgres finds itself, disregards capabilities.
            grant += ["--securebits=+no_setuid_fixup"] if name else []
            account = replace(self, prefix=(*drop, "--no-new-privs", *grant))
            results = [account.run(probe) for probe in probes]
            if all(result.returncode == 0 for result in results):
                return account
            failures += [result.stdout.strip() for result in results if result.returncode != 0]
        raise ConfigurationError(
            f"uid {self.uid} cannot reach what Postgres needs ({failures[0]}; {failures[-1]}). "
            f"Put the directory and the Python environment where it can. {_FIX}"
        )

    def run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a short command as this account."""
        return subprocess.run(  # noqa: S603 - our own argument list, no shell
            [*self.prefix, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd="/",
            env=ENVIRONMENT,
            umask=0o077,
            check=False,
        )
