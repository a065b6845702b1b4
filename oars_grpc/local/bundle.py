"""Committed files that the local stack needs at run time, from a checkout or from the wheel."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from oars_grpc.errors import ConfigurationError

_PACKAGE = Path(__file__).resolve().parents[1]


def bundled(relative: str) -> Path:
    """Where a committed file such as `deploy/envoy/envoy.yaml` lies on this machine.

    A checkout serves its own file, so that an edit takes effect; an installed wheel serves the
    copy that `pyproject.toml` puts into `oars_grpc/_bundle`.
    """
    checkout = _PACKAGE.parent
    candidates = [_PACKAGE / "_bundle" / relative]
    # Beside an installed package lie other people's packages; only a checkout has this file there.
    if (checkout / "pyproject.toml").is_file():
        candidates.insert(0, checkout / relative)
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise ConfigurationError(
        f"{relative} is missing; looked for {' and '.join(map(str, candidates))}. "
        "Reinstall oars-grpc or run from a complete checkout."
    )


def load_script(relative: str) -> ModuleType:
    """Load a committed script as a module, once per process; its folder need not be a package."""
    path = bundled(relative)
    name = "oars_script_" + "".join(c if c.isalnum() else "_" for c in relative)
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigurationError(f"{path} is not a Python script")
    module = importlib.util.module_from_spec(spec)
    # Registered before it runs, as `import` does: dataclasses look their module up by name.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
