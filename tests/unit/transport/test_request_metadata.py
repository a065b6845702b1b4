import pytest

from oars_grpc.errors import InvalidArgument
from oars_grpc.generated.oars.v1.action_pb2 import SubmitActionRequest
from oars_grpc.transport.request_metadata import idempotency_key, request_id, trace_parent

METHOD = "/oars.v1.ActionService/SubmitAction"
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def submission(agent_id: str = "agent-1") -> SubmitActionRequest:
    return SubmitActionRequest(agent_id=agent_id)


@pytest.mark.parametrize("value", ["a", "req_01/x:y.z+w=-", "x" * 128])
def test_a_request_id_is_taken_over(value: str) -> None:
    assert request_id({"x-request-id": [value]}, "fresh") == value


def test_without_a_request_id_a_fresh_one_serves() -> None:
    assert request_id({}, "fresh") == "fresh"
    assert request_id({"x-request-id": []}, "fresh") == "fresh"


@pytest.mark.parametrize("value", ["", "x" * 129, "a b", "a\nb", "é", "a;b", '"', "a\x00"])
def test_any_other_request_id_is_refused_by_name(value: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        request_id({"x-request-id": [value]}, "fresh")
    assert [v.field for v in refused.value.violations] == ["x-request-id"]


@pytest.mark.parametrize("value", ["k", " ", "~", "k" * 255, "order 7/{x}"])
def test_an_idempotency_key_stands_for_one_request(value: str) -> None:
    found = idempotency_key({"idempotency-key": [value]}, METHOD, submission())
    assert found is not None
    assert found.key == value
    assert found == idempotency_key({"idempotency-key": [value]}, METHOD, submission())


def test_without_a_key_there_is_none() -> None:
    assert idempotency_key({}, METHOD, submission()) is None


@pytest.mark.parametrize("value", ["", "k" * 256, "é", "a\n", "\x1f", "\x7f", "\t"])
def test_any_other_idempotency_key_is_refused_by_name(value: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        idempotency_key({"idempotency-key": [value]}, METHOD, submission())
    assert [v.field for v in refused.value.violations] == ["idempotency-key"]


def test_headers_given_twice_are_refused_even_if_they_agree() -> None:
    with pytest.raises(InvalidArgument, match="more than once"):
        request_id({"x-request-id": ["a", "a"]}, "fresh")
    with pytest.raises(InvalidArgument, match="more than once"):
        idempotency_key({"idempotency-key": ["a", "a"]}, METHOD, submission())


def test_the_fingerprint_tells_requests_and_methods_apart() -> None:
    def fingerprint(method: str, request: SubmitActionRequest) -> str:
        found = idempotency_key({"idempotency-key": ["k"]}, method, request)
        assert found is not None
        return found.fingerprint

    prints = {
        fingerprint(METHOD, submission()),
        fingerprint(METHOD, submission("agent-2")),
        fingerprint(METHOD, submission("")),
        fingerprint("/oars.v1.ActionService/CancelAction", submission()),
    }
    assert len(prints) == 4
    assert all(len(text) == 64 for text in prints)


def test_the_fingerprint_does_not_depend_on_the_order_of_map_entries() -> None:
    names = [f"name-{number}" for number in range(50)]
    found = set()
    for order in (names, list(reversed(names))):
        request = submission()
        for name in order:
            request.context.attributes[name] = "x"
            request.input.fields[name].number_value = 1
        key = idempotency_key({"idempotency-key": ["k"]}, METHOD, request)
        assert key is not None
        found.add(key.fingerprint)
    assert len(found) == 1


def test_a_trace_context_is_passed_on() -> None:
    assert trace_parent({"traceparent": [TRACE]}) == TRACE


@pytest.mark.parametrize(
    "values", [[], [""], [TRACE.upper()], [TRACE[:-1]], [TRACE + "-00"], [TRACE, TRACE], ["x" * 55]]
)
def test_a_malformed_trace_context_is_ignored(values: list[str]) -> None:
    assert trace_parent({"traceparent": values}) == ""
