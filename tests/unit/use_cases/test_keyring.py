"""Policies on the shelf: compiled once, whoever asks and however many ask at once."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from oars_grpc.core.policy import Effect, PolicyDocument, Rule
from oars_grpc.core.policy_document import CompiledPolicy, validate_document
from oars_grpc.core.stored import StoredPolicy
from oars_grpc.errors import InvalidArgument, ResourceExhausted
from oars_grpc.use_cases import keyring
from oars_grpc.use_cases.keyring import CACHED_POLICIES, PolicyShelf
from tests.support.factories import make_policy


def document_of(number: int, condition: str = "") -> PolicyDocument:
    rule = Rule(f"r{number}", Effect.DENY, condition=condition)
    return PolicyDocument(f"policy {number}", (rule,))


def policy_of(number: int, condition: str = "") -> StoredPolicy:
    return make_policy(document=document_of(number, condition))


class Compiler:
    """The real one, counted; it waits where a test tells it to."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.started = threading.Event()
        self.may_end = threading.Event()
        self.may_end.set()

    def __call__(self, document: PolicyDocument) -> CompiledPolicy:
        self.names.append(document.name)
        self.started.set()
        assert self.may_end.wait(30)
        return validate_document(document)


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    counted = Compiler()
    monkeypatch.setattr(keyring, "validate_document", counted)
    return counted


def test_a_document_is_compiled_once_and_told_by_its_digest(compiler: Compiler) -> None:
    shelf = PolicyShelf()
    first, same = policy_of(1), policy_of(1)
    assert first.policy_id != same.policy_id
    assert shelf.compiled(first) is shelf.compiled(same)
    assert shelf.compiled(policy_of(2)).digest == policy_of(2).digest
    assert compiler.names == ["policy 1", "policy 2"]


def test_threads_that_meet_a_new_document_compile_it_once(compiler: Compiler) -> None:
    shelf, policy = PolicyShelf(), policy_of(1)
    compiler.may_end.clear()
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(shelf.compiled, policy) for _ in range(8)]
        assert compiler.started.wait(30)
        # One document on its way keeps nobody from another one.
        other = policy_of(2)
        known = shelf._compiled.setdefault(other.digest, validate_document(document_of(2)))
        assert shelf.compiled(policy_of(2)) is known
        compiler.may_end.set()
        found = {id(future.result(30)) for future in asked}
    assert len(found) == 1
    assert compiler.names == ["policy 1"]


def test_all_who_wait_for_a_faulty_document_are_told_and_it_is_not_kept(
    compiler: Compiler,
) -> None:
    shelf, faulty = PolicyShelf(), policy_of(1, "risk.score >")
    compiler.may_end.clear()
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(shelf.compiled, faulty) for _ in range(4)]
        assert compiler.started.wait(30)
        compiler.may_end.set()
        for future in asked:
            with pytest.raises(InvalidArgument, match="condition"):
                future.result(30)
    with pytest.raises(InvalidArgument):
        shelf.compiled(faulty)


def test_the_shelf_keeps_a_bounded_number_and_drops_the_least_used(compiler: Compiler) -> None:
    shelf = PolicyShelf()
    for number in range(CACHED_POLICIES):
        shelf.compiled(policy_of(number))
    shelf.compiled(policy_of(0))  # used again, so policy 1 is the least used
    shelf.compiled(policy_of(CACHED_POLICIES))
    compiler.names.clear()
    shelf.compiled(policy_of(0))
    shelf.compiled(policy_of(1))
    assert compiler.names == ["policy 1"]


def test_one_document_is_tried_at_a_time_and_who_waits_too_long_is_told_when_to_return(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyring, "TRIAL_WAIT_SECONDS", 0.05)
    shelf, document = PolicyShelf(), document_of(1)
    compiler.may_end.clear()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(shelf.tried, document)
        assert compiler.started.wait(30)
        with pytest.raises(ResourceExhausted) as refused:
            shelf.tried(document)
        assert refused.value.retry_after_ms > 0
        compiler.may_end.set()
        assert first.result(30).digest == document.digest
    assert shelf.tried(document).digest == document.digest
    assert compiler.names == ["policy 1", "policy 1"]


def test_a_faulty_document_does_not_bar_the_next(compiler: Compiler) -> None:
    shelf = PolicyShelf()
    with pytest.raises(InvalidArgument):
        shelf.tried(document_of(1, "risk.score >"))
    assert shelf.tried(document_of(2)).digest == policy_of(2).digest


def test_a_policy_whose_document_was_not_read_is_an_error_and_never_decides() -> None:
    with pytest.raises(ValueError, match="was not read"):
        PolicyShelf().compiled(replace(policy_of(1), document=None))
