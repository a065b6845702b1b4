"""Has the evidence of an action scored, where it came along and where it is stored."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

from oars_grpc.core.action import ActionRequest
from oars_grpc.core.action_evidence import ActionEvidence, EvidenceAssessment
from oars_grpc.core.evidence_scoring import EvidenceLattices, assess_inline, assess_lattice
from oars_grpc.core.lattice.progress import Proceed, keep_going
from oars_grpc.use_cases.lattice_work import HeavyWork

# Scoring takes milliseconds: whoever found no room finds some soon.
SCORING_RETRY_MS = 500


class Grounding:
    """Scores evidence, of so many actions at a time as `scoring` has places."""

    def __init__(self, lattices: EvidenceLattices, scoring: HeavyWork) -> None:
        self._lattices = lattices
        self._scoring = scoring

    def lazily(
        self, request: ActionRequest, evidence: ActionEvidence | None, proceed: Proceed
    ) -> Callable[[], ActionRequest]:
        """Makes the request with its evidence scored: when first asked for, and once.

        Within the attempt to commit, so that a call that repeats another gets the first answer
        even where the lattice has gone since.
        """

        @cache
        def grounded() -> ActionRequest:
            if evidence is None:
                return request
            return replace(request, evidence=self.assess(request.tenant_id, evidence, proceed))

        return grounded

    def assess(
        self, tenant_id: str, evidence: ActionEvidence, proceed: Proceed = keep_going
    ) -> EvidenceAssessment:
        """The scores of evidence.

        Raises:
            NotFound: it names a lattice that the tenant does not have.
            FailedPrecondition: the lattice is not ready, or of another dimension.
            ResourceExhausted: the evidence of too many other actions waits to be scored.
        """
        if not evidence.lattice_id:
            with self._scoring.place(proceed):
                return assess_inline(evidence, proceed)
        # To load it takes a place of its own.
        lattice = self._lattices.find(tenant_id, evidence.lattice_id, proceed)
        with self._scoring.place(proceed):
            return assess_lattice(evidence, lattice, proceed)
