"""Seals secrets that the database keeps, under the key-encryption key."""

from oars_grpc.core.ports import Chance
from oars_grpc.core.sealing import NONCE_BYTES, seal, unseal
from oars_grpc.errors import ConfigurationError


class Sealer:
    """Seals and opens; every secret under a nonce of its own."""

    def __init__(self, key_encryption_key: bytes, chance: Chance) -> None:
        self._key_encryption_key = key_encryption_key
        self._chance = chance

    def seal(self, secret: bytes, associated: str) -> bytes:
        """The secret encrypted, for what `associated` names only."""
        nonce = self._chance.random_bytes(NONCE_BYTES)
        return seal(self._key_encryption_key, secret, associated, nonce)

    def open(self, sealed: bytes, associated: str) -> bytes:
        """The secret again.

        Raises:
            ConfigurationError: sealed under another key-encryption key, or moved, or changed.
        """
        try:
            return unseal(self._key_encryption_key, sealed, associated)
        except ValueError as error:
            raise ConfigurationError(
                f"{associated} does not decrypt: "
                "is OARS_KEY_ENCRYPTION_KEY_FILE the file it was created under?"
            ) from error
