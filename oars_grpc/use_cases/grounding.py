"""Has the evidence of an action scored, where it came along and where it is stored."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

from oars_grpc.core.action import ActionRequest
from oars_grpc.core.action_evidence import ActionEvidence, EvidenceAssessment
from oars_grpc.core.evidence_scoring import EvidenceLattices, assess_inline, assess_lattice
from oars_grpc.core.lattice.progress import Proceed, keep_going


class Grounding:
    """Scores evidence."""

    def __init__(self, lattices: EvidenceLattices) -> None:
        self._lattices = lattices

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
        """
        if not evidence.lattice_id:
            return assess_inline(evidence, proceed)
        lattice = self._lattices.find(tenant_id, evidence.lattice_id, proceed)
        return assess_lattice(evidence, lattice, proceed)
