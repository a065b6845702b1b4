"""What a rollback goes back to, derived from the publications of a tenant.

A rollback is one more publication, and no row says that it is one. The history is read as a stack:

1. Publications are taken in their order. Those of archived policies are left out, as if they had
   never been: an archived policy is not published again.
2. Publishing what already lies on top changes nothing.
3. Publishing what lies directly under the top takes the top away: that is a rollback, or comes to
   the same.
4. Publishing anything else puts it on top.

A rollback publishes what lies under the top, so that rolling back again and again walks further and
further back, and never to and fro between two policies.
"""

from collections.abc import Iterable


def rollback_target(publications: Iterable[str]) -> str | None:
    """What lies under the published policy; `publications` are ids of policies, oldest first."""
    stack: list[str] = []
    for policy_id in publications:
        if stack[-1:] == [policy_id]:
            continue
        if len(stack) > 1 and stack[-2] == policy_id:
            stack.pop()
        else:
            stack.append(policy_id)
    return stack[-2] if len(stack) > 1 else None
