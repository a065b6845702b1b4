"""Lattices and what they say: messages ↔ core values.

Numbers of results are read from the statements under their receipts, so that nothing is answered
that is not signed.
"""

import math
from collections.abc import Mapping
from typing import Any

from google.protobuf.message import Message

from oars_grpc.core.lattice.arrays import Float32Array
from oars_grpc.core.lattice.parameters import LaplacianKind, LatticeParameters
from oars_grpc.core.stored_lattice import LatticeState, StoredLattice
from oars_grpc.generated.oars.v1 import lattice_pb2
from oars_grpc.transport.reading import Reader, inverse
from oars_grpc.transport.receipt_messages import write_stored_receipt
from oars_grpc.transport.writing import write_time
from oars_grpc.use_cases.lattice_answers import LatticeAnswer
from oars_grpc.use_cases.lattice_arrays import unpacked, unpacked_rows
from oars_grpc.use_cases.lattice_limits import MAXIMUM_ARRAY_BYTES, MAXIMUM_CHAIN
from oars_grpc.use_cases.lattices import LatticeDraft

MAXIMUM_NAME = 128
LAPLACIANS: Mapping[int, LaplacianKind] = {
    lattice_pb2.LATTICE_LAPLACIAN_COMBINATORIAL: LaplacianKind.COMBINATORIAL,
    lattice_pb2.LATTICE_LAPLACIAN_NORMALIZED: LaplacianKind.NORMALIZED,
}
_LAPLACIAN_NUMBERS = inverse(LAPLACIANS)
_STATES = inverse(
    {
        lattice_pb2.LATTICE_STATE_BUILDING: LatticeState.BUILDING,
        lattice_pb2.LATTICE_STATE_READY: LatticeState.READY,
        lattice_pb2.LATTICE_STATE_FAILED: LatticeState.FAILED,
    }
)
_DETAILS = (
    lattice_pb2.LATTICE_DETAIL_UNSPECIFIED,
    lattice_pb2.LATTICE_DETAIL_LIGHT,
    lattice_pb2.LATTICE_DETAIL_FULL,
)
_WEIGHTS = ("anchor_weight", "graph_weight", "query_weight", "chain_weight", "tolerance")
_WHOLE = ("neighbors", "max_iterations")
_TERMS = ("anchor", "graph", "query", "chain", "total")

ChainDraft = tuple[list[int], Float32Array | None]


def read_parameters(
    reader: Reader, message: lattice_pb2.LatticeParameters, field: str = "parameters"
) -> LatticeParameters:
    """The parameters, defaults filled in; the core checks their ranges."""
    given: dict[str, Any] = {
        name: getattr(message, name)
        for name in ("row_cap", *_WEIGHTS)
        if message.HasField(name)  # type: ignore[arg-type] # one of its fields
    }
    given |= {name: getattr(message, name) for name in _WHOLE if getattr(message, name)}
    laplacian = reader.one_of(
        message.laplacian, f"{field}.laplacian", LAPLACIANS, LaplacianKind.COMBINATORIAL
    )
    return LatticeParameters(laplacian=laplacian or LaplacianKind.COMBINATORIAL, **given)


def write_parameters(message: lattice_pb2.LatticeParameters, parameters: LatticeParameters) -> None:
    """Fill the message."""
    for name in (*_WEIGHTS, *_WHOLE):
        setattr(message, name, getattr(parameters, name))
    if parameters.row_cap is not None:
        message.row_cap = parameters.row_cap
    message.laplacian = _LAPLACIAN_NUMBERS[parameters.laplacian]


def read_chain(
    reader: Reader,
    holder: Message,
    field: str = "chain",
    *,
    required: bool = False,
    longest: int = MAXIMUM_CHAIN,
) -> ChainDraft | None:
    """The chain of a request, where it has one; the core checks its nodes."""
    if not holder.HasField("chain"):
        if required:
            reader.wrong(field, "is required")
        return None
    chain: lattice_pb2.LatticeChain = getattr(holder, "chain")  # noqa: B009 - of several kinds
    if len(chain.nodes) > longest:
        reader.wrong(f"{field}.nodes", f"are {len(chain.nodes)}; at most {longest} are accepted")
        return None
    if len(chain.weights) > longest * 4:
        reader.wrong(f"{field}.weights", "are more than there can be links")
        return None
    weights = unpacked(chain.weights, f"{field}.weights") if chain.weights else None
    return list(chain.nodes), weights


def read_array(reader: Reader, data: bytes, field: str, *, required: bool = False) -> bytes:
    """Packed numbers of a request, within what one may bring."""
    if required and not data:
        reader.wrong(field, "is required")
    if len(data) > MAXIMUM_ARRAY_BYTES:
        reader.wrong(
            field, f"is {len(data)} bytes long; at most {MAXIMUM_ARRAY_BYTES} are accepted"
        )
    return data


def read_full(reader: Reader, detail: int) -> bool:
    """Whether full detail is asked for."""
    if detail not in _DETAILS:
        reader.wrong("detail", f"{detail} is not a value that this server knows")
    return detail == lattice_pb2.LATTICE_DETAIL_FULL


def read_draft(
    reader: Reader,
    request: lattice_pb2.CreateSmallLatticeRequest
    | lattice_pb2.SettleOnceRequest
    | lattice_pb2.VerifyLatticeReceiptRequest,
) -> LatticeDraft:
    """What a request wants settled; `reader` is done with it."""
    if request.dimension < 1:
        reader.wrong("dimension", "is required" if not request.dimension else "must be positive")
    anchors = read_array(reader, request.anchors, "anchors", required=True)
    gates = read_array(reader, request.gates, "gates")
    parameters = read_parameters(reader, request.parameters)
    chain = read_chain(reader, request)
    reader.done()
    return LatticeDraft(
        anchors=unpacked_rows(anchors, "anchors", request.dimension),
        parameters=parameters,
        gates=unpacked(gates, "gates") if gates else None,
        chain=chain,
    )


def write_lattice(stored: StoredLattice) -> lattice_pb2.Lattice:
    """The message of a lattice."""
    message = lattice_pb2.Lattice(
        lattice_id=stored.lattice_id,
        tenant_id=stored.tenant_id,
        display_name=stored.display_name,
        state=_STATES[stored.state],
        anchors=stored.anchors,
        dimension=stored.dimension,
        edges=stored.edges,
        gated=stored.gated,
        chain_length=0 if stored.chain is None else len(stored.chain.nodes),
        version=stored.version,
        created_by=stored.created_by,
        error=stored.error,
    )
    write_parameters(message.parameters, stored.parameters)
    write_time(message.created_at, stored.created_at)
    write_time(message.updated_at, stored.updated_at)
    return message


def write_result(answer: LatticeAnswer) -> lattice_pb2.LatticeResult:
    """The message of a result."""
    body = answer.body
    message = lattice_pb2.LatticeResult(
        state=answer.state, receipt=write_stored_receipt(answer.receipt)
    )
    ranking = body["ranking"]
    for item in ranking["items"]:
        ranked = message.ranking.add(index=item["node"])
        for name in ("score", "relevance", "cosine"):
            setattr(ranked, name, math.ldexp(item[name], ranking["exponent"]))
    energy = body["energy"]
    for name in ("before", "after", "drop"):
        terms = getattr(message.energy, name)
        for term in _TERMS:
            setattr(terms, term, math.ldexp(energy[name][term], energy["exponent"]))
    write_solver(message.solver, body["solver"])
    proof = body["certificate"]
    message.certificate.residual = _real(proof["residual"])
    message.certificate.minimum_eigenvalue = _real(proof["minimumEigenvalue"])
    message.certificate.bound = _real(proof["bound"])
    if "conflicts" in body:
        found = body["conflicts"]
        for item in found["items"]:
            message.conflicts.add(
                index=item["node"],
                first_neighbor=item["pair"][0],
                second_neighbor=item["pair"][1],
                tension=math.ldexp(item["tension"], found["exponent"]),
            )
    if "verdict" in body:
        write_verdict(message.verdict, body["verdict"])
    return message


def write_solver(message: lattice_pb2.LatticeSolver, solver: Mapping[str, Any]) -> None:
    """Fill the message of a solver's outcome."""
    message.method, message.stop = solver["method"], solver["stop"]
    message.converged, message.iterations = solver["converged"], solver["iterations"]


def write_verdict(message: lattice_pb2.LatticeChainVerdict, verdict: Mapping[str, Any]) -> None:
    """Fill the message of a chain's verdict."""
    message.coherent, message.weakest_link = verdict["coherent"], verdict["weakestLink"]
    message.strains.extend(math.ldexp(each, verdict["exponent"]) for each in verdict["scores"])
    message.gain = _real(verdict["gain"])


def _real(value: Mapping[str, int]) -> float:
    return math.ldexp(value["number"], value["exponent"])
