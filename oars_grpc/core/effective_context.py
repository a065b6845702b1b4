"""The circumstances that count: what the caller asserts, corrected by what its identity verifies.

A caller asserts its context; the trusted-identities file verifies attributes of its identity. Where
both speak, the verified attribute wins, and what the caller said instead is a contradiction: a
signal of risk, for nobody misstates what is known of him without a reason. Leaving something out
contradicts nothing.

- `environment`: a verified one is the environment, whatever is asserted.
- `data_types` (comma-separated): what the identity is known to handle cannot be left out. Where
  the caller states its data types the verified ones are added. Where it states none, they stay
  unstated, for there may be more than is known; a rule that requires only known ones matches, and
  known ones count in the risk besides the points for not stating any.
- any attribute: `context.attributes.<name>` is the verified value wherever
  `caller.attributes.<name>` exists.

The request itself keeps what was asserted: the action digest binds to what was asked.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from oars_grpc.core.action import ActionContext, ActionRequest
from oars_grpc.core.folding import fold

ENVIRONMENT, DATA_TYPES = "environment", "data_types"
# Verifies that there is nothing to state, as the same word does in a request.
_NO_DATA_TYPES = "none"


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A fact that the caller states otherwise than its identity verifies it."""

    fact: str
    asserted: str
    verified: str


@dataclass(frozen=True, slots=True)
class EffectiveContext:
    """The context that matching, conditions, facts and risk see.

    `data_types` None means not stated; `known_data_types` are then those that there are at least.
    """

    environment: str
    data_types: tuple[str, ...] | None
    known_data_types: tuple[str, ...]
    attributes: Mapping[str, str]
    contradictions: tuple[Contradiction, ...]


def effective_context(request: ActionRequest) -> EffectiveContext:
    """What counts of a request's context; the same request always gives the same."""
    context, verified = request.context, request.caller.attributes
    if not verified:
        return EffectiveContext(context.environment, context.data_types, (), context.attributes, ())
    contradictions: list[Contradiction] = []
    environment = _environment(context, verified, contradictions)
    known = verified_data_types(verified)
    data_types = context.data_types
    if data_types is not None and known:
        stated = frozenset(map(fold, data_types))
        unstated = tuple(name for name in known if fold(name) not in stated)
        data_types = (*data_types, *unstated)
        if unstated:
            said = ", ".join(context.data_types or ()) or _NO_DATA_TYPES
            fact = f"context.{DATA_TYPES}"
            contradictions.append(Contradiction(fact, said, ", ".join(known)))
    contradictions += [
        Contradiction(f"context.attributes.{name}", asserted, verified[name])
        for name, asserted in sorted(context.attributes.items())
        if name in verified and fold(asserted) != fold(verified[name])
    ]
    return EffectiveContext(
        environment,
        data_types,
        known if data_types is None else (),
        {**context.attributes, **verified},
        tuple(contradictions),
    )


def _environment(
    context: ActionContext, verified: Mapping[str, str], contradictions: list[Contradiction]
) -> str:
    value = verified.get(ENVIRONMENT, "")
    if not fold(value):
        return context.environment
    if context.environment and fold(context.environment) != fold(value):
        fact = f"context.{ENVIRONMENT}"
        contradictions.append(Contradiction(fact, context.environment, value))
    return value


def verified_data_types(verified: Mapping[str, str]) -> tuple[str, ...]:
    """The data types that verified attributes say an identity handles, each once."""
    names = (name.strip() for name in verified.get(DATA_TYPES, "").split(","))
    folded = {fold(name): name for name in names if fold(name) not in ("", _NO_DATA_TYPES)}
    return tuple(folded.values())
