"""How much of the lattice each role may ask for."""

from collections.abc import Mapping
from dataclasses import replace

from oars_grpc.core.identity import Principal, Role
from oars_grpc.core.lattice.limits import DEFAULT_LIMITS, LatticeLimits

# An agent scores the evidence of one action; who keeps a corpus is an operator.
_AGENT = replace(
    DEFAULT_LIMITS,
    max_anchors=50_000,
    max_dimension=2048,
    max_neighbors=32,
    max_iterations=1024,
    max_bytes=256 << 20,
    max_queries=64,
)
_GATEWAY = replace(_AGENT, max_anchors=200_000, max_bytes=1 << 30, max_queries=256)
_BY_ROLE: Mapping[Role, LatticeLimits] = {
    Role.ADMIN: DEFAULT_LIMITS,
    Role.OPERATOR: DEFAULT_LIMITS,
    Role.GATEWAY: _GATEWAY,
}
# Links of a chain are under the signature, and in a receipt there is room for so many.
MAXIMUM_CHAIN = 4096
# Of one request or answer: base64 in JSON makes it four thirds of that, and the rest has room.
MAXIMUM_ARRAY_BYTES = 720_896
MAXIMUM_CHANGES = 1024
MAXIMUM_RANKED = 256


def limits_of(principal: Principal) -> LatticeLimits:
    """The limits of a caller."""
    return _BY_ROLE.get(principal.role, _AGENT)
