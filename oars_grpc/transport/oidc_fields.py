"""Reads the members of an entry of the OIDC file, strictly."""

from collections.abc import Mapping
from typing import Any

from oars_grpc.core.identity import Role
from oars_grpc.errors import ConfigurationError

# A path into the claims: one name, or the names of objects within objects.
ClaimPath = tuple[str, ...]

# A person is never an agent, and never speaks for one.
_ROLES = {role.value: role for role in Role if role not in (Role.AGENT, Role.GATEWAY)}


class Fields:
    """The members of one entry.

    What is wrong is a ConfigurationError.
    """

    def __init__(self, entry: Mapping[str, Any]) -> None:
        self._entry = entry

    def text(self, name: str, default: str | None = None) -> str:
        """A text; required where there is no default."""
        value = self._entry.get(name, default)
        if not isinstance(value, str) or (value == "" and name in self._entry):
            raise ConfigurationError(f"{name} must be text")
        return value

    def texts(
        self, name: str, default: list[str] | None = None, allowed: tuple[str, ...] = ()
    ) -> tuple[str, ...]:
        """A list of texts; required and not empty where there is no default."""
        value = self._entry.get(name, default)
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            raise ConfigurationError(f"{name} must be a list of texts")
        if default is None and not value:
            raise ConfigurationError(f"{name} must not be empty")
        for item in value:
            if allowed and item not in allowed:
                raise ConfigurationError(f"{name} takes {', '.join(allowed)}, not {item!r}")
        return tuple(value)

    def roles(self, name: str, default: list[str]) -> tuple[Role, ...]:
        """A list of the roles that a person can have."""
        return tuple(_ROLES[value] for value in self.texts(name, default, tuple(_ROLES)))

    def path(self, name: str, default: ClaimPath) -> ClaimPath:
        """A claim: its name, or the list of names that lead to it."""
        value = self._entry.get(name)
        if name not in self._entry:
            return default
        if isinstance(value, str) and value:
            return (value,)
        return self.texts(name)

    def mapping(self, name: str) -> Mapping[str, Role]:
        """The roles by value of a claim."""
        value = self._entry.get(name)
        if not isinstance(value, dict) or not value:
            raise ConfigurationError(f"{name} must be an object of roles by claim value")
        for claim, role in value.items():
            if not isinstance(role, str) or role not in _ROLES:
                raise ConfigurationError(f"{name}: {claim!r} must be one of {', '.join(_ROLES)}")
        return {claim: _ROLES[role] for claim, role in value.items()}

    def number(self, name: str, default: int, minimum: int, maximum: int) -> int:
        """A whole number within bounds."""
        value = self._entry.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= maximum:
            raise ConfigurationError(f"{name} must be from {minimum} to {maximum}")
        return value
