"""Many conditions answered in one call of the evaluator.

A call takes some 3 µs whatever it evaluates, a comparison in it a tenth of one. So the conditions
of a policy are evaluated as lists (`absorbing_list.py`) that tell which of them are definitely
false and which definitely true. Those without a value are evaluated one by one, since only that
tells why. The values are the same, for an element of such a list sees what it would see alone:

- it is compiled from the same text; one that is no element of a list, for the depth that this
  adds, is left out;
- the evaluator's limit of iterations holds for a whole call, and one that meets it gives no answers
  at all; so conditions that iterate stand in lists of their own;
- a call may take no longer than a single condition may: together the elements, each evaluated
  twice if it is not false, keep to `CONDITION_BUDGET`, and all calls for a policy, with each
  condition evaluated once more alone, to `POLICY_BUDGET`. Above the amount of data for which that
  is known (`max_units`) there is no list.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from oars_grpc.core.absorbing_list import absorbing
from oars_grpc.core.condition import (
    CONDITION_BUDGET,
    DATA_STEPS,
    POLICY_BUDGET,
    BoundFacts,
    CheckedCondition,
    environment,
)

# More would save little of a call's cost, and more would be evaluated for the few that are asked.
MAX_BATCH = 128
# Evaluating a list of as many conditions as this takes about as long as a call for one of them.
_ELEMENTS_PER_CALL = 16
# What a list may take for one condition, and what that condition may take altogether.
_EVALUATIONS_IN_LIST = 2
_EVALUATIONS = _EVALUATIONS_IN_LIST + 1
# The work that the conditions of one list may add up to.
LIST_BUDGET = CONDITION_BUDGET // _EVALUATIONS_IN_LIST
# A condition that alone takes this much is not put into a list.
DEAR = LIST_BUDGET // 8
# What a condition may cost at any amount of data to need no estimate for a smaller one.
_CHEAP = LIST_BUDGET // MAX_BATCH
# The amounts of data to choose from, largest first: any, or what an action usually brings.
_AMOUNTS = (DATA_STEPS[-1], *(step for step in reversed(DATA_STEPS) if step <= 1_024))


@dataclass(frozen=True, slots=True)
class ConditionBatch:
    """Conditions that are answered together, in the slots from `first` to before `end`."""

    first: int
    end: int
    texts: tuple[str, ...]
    max_units: int
    _expression: Any

    def worth_asking(self, asked: int) -> bool:
        """Whether to evaluate all for an answer to so many of them."""
        return asked > 1 and asked * _ELEMENTS_PER_CALL >= self.end - self.first

    def answers(self, bound: BoundFacts) -> list[int] | None:
        """What each comes to, as `absorbing_list.py` numbers it; None if there is no answer."""
        if bound.units > self.max_units:
            return None
        try:
            answers = self._expression.eval(activation=bound.activation).plain_value()
        except RuntimeError:  # how the evaluator reports what is not a value
            return None
        # An error is a text where a list is expected.
        return answers if isinstance(answers, list) else None


def affordable_amount(conditions: Iterable[CheckedCondition]) -> int:
    """The most data for which a policy's distinct conditions are asked in lists; 0 for none.

    Of the amounts that are affordable, the one for which they take the fewest calls.
    """
    distinct = list(conditions)
    fewest = -(-len(distinct) // MAX_BATCH)
    best, best_calls = 0, len(distinct) + 1
    for amount in _AMOUNTS:
        work = [work_at(each, amount) for each in distinct]
        if _EVALUATIONS * sum(work) > POLICY_BUDGET:
            continue
        listed = [each for each in work if each <= DEAR]
        calls = len(work) - len(listed) + max(fewest, -(-sum(listed) // LIST_BUDGET))
        if calls < best_calls:
            best, best_calls = amount, calls
        if calls <= fewest:
            break
    return best


def work_at(checked: CheckedCondition, amount: int) -> int:
    """No less than the work of a condition over an amount of data, estimated if it matters."""
    at_most = checked.work(DATA_STEPS[-1])
    return at_most if at_most <= _CHEAP else checked.work(amount)


def compile_batch(
    conditions: Sequence[CheckedCondition], first: int, amount: int
) -> ConditionBatch | None:
    """The conditions as one batch, in slots from `first`; None if they do not make one.

    The caller sees to it that their work together is within bounds for that amount of data.
    """
    found = _compile_list(conditions)
    if found is None:
        conditions = [each for each in conditions if _compile_list([each])]
        found = _compile_list(conditions)
    if found is None or len(conditions) < 2:
        return None
    return ConditionBatch(
        first,
        first + len(conditions),
        tuple(each.condition.text for each in conditions),
        min(amount, *(each.condition.max_units for each in conditions)),
        environment().deserialize(absorbing(found, len(conditions))),
    )


def _compile_list(conditions: Sequence[CheckedCondition]) -> bytes | None:
    """The checked list of these conditions; None if one is too deep to be an element of a list."""
    # A condition may end in a comment, which ends with its line.
    listed = "[" + "\n,".join(each.condition.text for each in conditions) + "\n]"
    try:
        serialized: bytes = environment().compile(listed).serialize()
    except RuntimeError:
        return None
    return serialized
