"""The rpcs of LatticeService that ask: parse, call one method, format."""

import grpc

from oars_grpc.core import ids
from oars_grpc.core.ids import parse_id
from oars_grpc.core.lattice.gates import MAXIMUM_SCREENING, MINIMUM_SCREENING
from oars_grpc.core.lattice.statement import MAXIMUM_LINKS
from oars_grpc.generated.oars.v1 import lattice_pb2, lattice_pb2_grpc
from oars_grpc.transport.answers import encoded, sent
from oars_grpc.transport.current_call import current_call
from oars_grpc.transport.lattice_messages import (
    read_array,
    read_chain,
    read_draft,
    read_full,
    write_result,
    write_solver,
    write_verdict,
)
from oars_grpc.transport.lattice_progress import proceeding
from oars_grpc.transport.reading import Reader
from oars_grpc.transport.receipt_messages import write_stored_receipt
from oars_grpc.transport.verification_messages import write_checks
from oars_grpc.use_cases.lattice_answers import (
    ComputedGates,
    LatticeAnswer,
    QueriedLattice,
    Wanted,
)
from oars_grpc.use_cases.lattice_arrays import unpacked
from oars_grpc.use_cases.lattice_limits import MAXIMUM_RANKED
from oars_grpc.use_cases.lattice_use_cases import LatticeUseCases
from oars_grpc.use_cases.lattice_verification import VerifiableReceipt

Context = grpc.ServicerContext
DEFAULT_TOP = 8
DEFAULT_SCREENING = 0.1


class LatticeQueriesServicer(lattice_pb2_grpc.LatticeServiceServicer):
    """Serves the part of `oars.v1.LatticeService` that asks."""

    def __init__(self, use_cases: LatticeUseCases) -> None:
        self._use_cases = use_cases

    def SettleOnce(
        self, request: lattice_pb2.SettleOnceRequest, context: Context
    ) -> lattice_pb2.SettleOnceResponse:
        """Settle what is not stored."""
        reader = Reader()
        tenant_id = reader.tenant_id(request.tenant_id)
        read_array(reader, request.query, "query", required=True)
        wanted = Wanted(
            _top(reader, request.top),
            read_full(reader, request.detail),
            rows=int(request.include_state),
        )
        draft = read_draft(reader, request)
        answer = self._use_cases.queries.settle_once(
            current_call(),
            tenant_id,
            draft,
            unpacked(request.query, "query"),
            wanted,
            encoded(_write_settled),
            proceeding(context),
        )
        return sent(lattice_pb2.SettleOnceResponse, answer)

    def QueryLattice(
        self, request: lattice_pb2.QueryLatticeRequest, context: Context
    ) -> lattice_pb2.QueryLatticeResponse:
        """Rank for queries."""
        reader = Reader()
        tenant_id = reader.tenant_id(request.tenant_id)
        queries = read_array(reader, request.queries, "queries", required=True)
        for name in ("state_rows", "state_first_row"):
            if getattr(request, name) < 0:
                reader.wrong(name, "must not be negative")
        wanted = Wanted(
            _top(reader, request.top),
            read_full(reader, request.detail),
            request.state_first_row,
            request.state_rows,
        )
        reader.done()
        lattice_id = parse_id(ids.LATTICE, request.lattice_id, "lattice_id")
        answer = self._use_cases.queries.query(
            current_call(),
            tenant_id,
            lattice_id,
            queries,
            wanted,
            encoded(_write_queried),
            proceeding(context),
        )
        return sent(lattice_pb2.QueryLatticeResponse, answer)

    def ScoreChain(
        self, request: lattice_pb2.ScoreChainRequest, context: Context
    ) -> lattice_pb2.ScoreChainResponse:
        """Judge a chain."""
        reader = Reader()
        tenant_id = reader.tenant_id(request.tenant_id)
        query = read_array(reader, request.query, "query", required=True)
        chain = read_chain(reader, request, required=True, longest=MAXIMUM_LINKS + 1)
        reader.done()
        lattice_id = parse_id(ids.LATTICE, request.lattice_id, "lattice_id")
        answer = self._use_cases.queries.score_chain(
            current_call(),
            tenant_id,
            lattice_id,
            chain or ([], None),
            query,
            encoded(_write_scored),
            proceeding(context),
        )
        return sent(lattice_pb2.ScoreChainResponse, answer)

    def ComputeGates(
        self, request: lattice_pb2.ComputeGatesRequest, context: Context
    ) -> lattice_pb2.ComputeGatesResponse:
        """Diffuse a query's relevance."""
        reader = Reader()
        tenant_id = reader.tenant_id(request.tenant_id)
        query = read_array(reader, request.query, "query", required=True)
        screening = request.screening if request.HasField("screening") else DEFAULT_SCREENING
        if not MINIMUM_SCREENING <= screening <= MAXIMUM_SCREENING:
            reader.wrong(
                "screening", f"must be from {MINIMUM_SCREENING:g} to {MAXIMUM_SCREENING:g}"
            )
        reader.done()
        lattice_id = parse_id(ids.LATTICE, request.lattice_id, "lattice_id")
        answer = self._use_cases.queries.compute_gates(
            current_call(),
            tenant_id,
            lattice_id,
            query,
            screening,
            encoded(_write_gates),
            proceeding(context),
        )
        return sent(lattice_pb2.ComputeGatesResponse, answer)

    def VerifyLatticeReceipt(
        self, request: lattice_pb2.VerifyLatticeReceiptRequest, context: Context
    ) -> lattice_pb2.VerifyLatticeReceiptResponse:
        """Verify a stored receipt, against inputs where there are any."""
        reader = Reader()
        tenant_id = reader.tenant_id(request.tenant_id)
        query = read_array(reader, request.query, "query")
        draft = read_draft(reader, request) if _supplies(request) else None
        reader.done()
        lattice_id = ""
        if request.lattice_id:
            lattice_id = parse_id(ids.LATTICE, request.lattice_id, "lattice_id")
        receipt_id = parse_id(ids.RECEIPT, request.receipt_id, "receipt_id")
        asked = VerifiableReceipt(tenant_id, receipt_id, lattice_id, draft, query)
        found = self._use_cases.verifier.verify(current_call(), asked, proceeding(context))
        return lattice_pb2.VerifyLatticeReceiptResponse(
            valid=found.valid,
            checks=write_checks(found.checks),
            errors=found.errors,
            receipt_valid=found.receipt_valid,
        )


def _supplies(request: lattice_pb2.VerifyLatticeReceiptRequest) -> bool:
    """Whether inputs come along; whatever belongs to them needs all of them."""
    given = (request.dimension, request.anchors, request.gates)
    return any(given) or request.HasField("parameters") or request.HasField("chain")


def _top(reader: Reader, top: int) -> int:
    if not 0 <= top <= MAXIMUM_RANKED:
        reader.wrong("top", f"must be from 0 to {MAXIMUM_RANKED}")
    return top or DEFAULT_TOP


def _write_settled(answer: LatticeAnswer) -> lattice_pb2.SettleOnceResponse:
    return lattice_pb2.SettleOnceResponse(result=write_result(answer))


def _write_queried(found: QueriedLattice) -> lattice_pb2.QueryLatticeResponse:
    return lattice_pb2.QueryLatticeResponse(
        results=[write_result(answer) for answer in found.answers], version=found.version
    )


def _write_scored(answer: LatticeAnswer) -> lattice_pb2.ScoreChainResponse:
    message = lattice_pb2.ScoreChainResponse(receipt=write_stored_receipt(answer.receipt))
    write_verdict(message.verdict, answer.body["verdict"])
    return message


def _write_gates(made: ComputedGates) -> lattice_pb2.ComputeGatesResponse:
    message = lattice_pb2.ComputeGatesResponse(
        gates=made.gates, receipt=write_stored_receipt(made.answer.receipt)
    )
    if "solver" in made.answer.body:
        write_solver(message.solver, made.answer.body["solver"])
    return message
