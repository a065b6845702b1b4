"""The transitions of an action as the design lists them, written out apart from the code."""

# Design section 5, written out again; what a caller reports of its own execution; a policy that has
# become stricter before the start; a start that failed before any effect.
ALLOWED = {
    ("requested", "denied"),
    ("requested", "quarantined"),
    ("requested", "approval_required"),
    ("requested", "approved"),
    ("approval_required", "approved"),
    ("approval_required", "denied"),
    ("approval_required", "expired"),
    ("approval_required", "canceled"),
    ("quarantined", "approval_required"),
    ("quarantined", "denied"),
    ("quarantined", "expired"),
    ("quarantined", "canceled"),
    ("approved", "executing"),
    ("approved", "executed"),
    ("approved", "failed"),
    ("approved", "expired"),
    ("approved", "canceled"),
    ("approved", "denied"),
    ("executing", "executed"),
    ("executing", "failed"),
    ("executing", "approved"),
}
