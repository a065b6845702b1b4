"""Whatever is done to an envelope, it is refused, and refusing never raises."""

from contextlib import suppress
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from oars_grpc.core.envelope import Envelope, Signature, envelope_from_json
from oars_grpc.core.verification import Surroundings, verify_receipt
from tests.support.factories import append_receipt, make_action, make_stored_key
from tests.support.strategies import any_json_values

TRUSTED = make_stored_key().trusted
ENVELOPE = append_receipt(make_action(), "action.requested")[1].envelope
SIGNATURE = ENVELOPE.signatures[0]


@st.composite
def edits(draw: st.DrawFn, original: bytes) -> bytes:
    """The bytes with a piece replaced by another one."""
    start = draw(st.integers(0, len(original)))
    end = draw(st.integers(start, min(len(original), start + 16)))
    return original[:start] + draw(st.binary(max_size=16)) + original[end:]


envelopes = st.builds(
    Envelope,
    payload_type=st.just(ENVELOPE.payload_type) | st.text(max_size=40),
    payload=st.just(ENVELOPE.payload) | edits(ENVELOPE.payload) | st.binary(max_size=300),
    signatures=st.lists(
        st.just(SIGNATURE)
        | st.builds(
            Signature,
            keyid=st.just(SIGNATURE.keyid) | st.text(max_size=20),
            sig=st.just(SIGNATURE.sig) | edits(SIGNATURE.sig) | st.binary(max_size=80),
        ),
        max_size=3,
    ).map(tuple),
)


@settings(max_examples=1000, deadline=None)
@given(envelopes, st.none() | envelopes)
def test_only_the_envelope_that_was_signed_is_valid(
    envelope: Envelope, previous: Envelope | None
) -> None:
    found = verify_receipt(envelope, [TRUSTED], Surroundings(previous=previous))
    if found.valid:
        assert (envelope, previous) == (ENVELOPE, None)
    else:
        assert found.errors


@settings(max_examples=500, deadline=None)
@given(edits(ENVELOPE.payload))
def test_a_valid_signature_does_not_carry_over_to_another_payload(payload: bytes) -> None:
    found = verify_receipt(replace(ENVELOPE, payload=payload), [TRUSTED])
    assert found.valid is (payload == ENVELOPE.payload)


@settings(max_examples=300, deadline=None)
@given(envelopes.filter(lambda envelope: all(ord(c) < 0xD800 for c in envelope.payload_type)))
def test_the_json_form_loses_nothing(envelope: Envelope) -> None:
    assert envelope_from_json(envelope.to_json()) == envelope


@settings(max_examples=300, deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "payloadType": any_json_values,
            "payload": any_json_values,
            "signatures": any_json_values
            | st.lists(st.fixed_dictionaries({"keyid": any_json_values, "sig": any_json_values})),
        },
    )
)
def test_reading_any_json_gives_an_envelope_or_a_value_error(value: dict[str, object]) -> None:
    with suppress(ValueError):
        assert not verify_receipt(envelope_from_json(value), [TRUSTED]).valid
