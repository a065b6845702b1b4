"""The public contract: routes, comments, generated code, and the rules that hold the code apart."""

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from google.api import annotations_pb2
from google.protobuf.descriptor import ServiceDescriptor
from packaging.requirements import Requirement

from oars_grpc.generated.oars.v1 import (
    action_pb2,
    approval_pb2,
    approver_pb2,
    control_pb2,
    evidence_pb2,
    lattice_pb2,
    policy_pb2,
    receipt_pb2,
    retention_pb2,
    tenant_pb2,
)
from oars_grpc.transport import server

ROOT = Path(__file__).resolve().parents[2]
MAXIMUM_LINES = 300

# The fixed names and routes of the rpcs that exist (design, section 4).
ROUTES = {
    "ActionService.SubmitAction": "POST /v1/actions *",
    "ActionService.GetAction": "GET /v1/actions/{action_id}",
    "ActionService.ListActions": "GET /v1/actions",
    "ActionService.StartAction": "POST /v1/actions/{action_id}:start *",
    "ActionService.CompleteAction": "POST /v1/actions/{action_id}:complete *",
    "ActionService.CancelAction": "POST /v1/actions/{action_id}:cancel *",
    "ActionService.ReleaseAction": "POST /v1/actions/{action_id}:release *",
    "ActionService.WatchAction": "GET /v1/actions/{action_id}:watch stream",
    "ApprovalService.DecideApproval": "POST /v1/approvals/{approval_id}/decision *",
    "ApprovalService.GetApproval": "GET /v1/approvals/{approval_id}",
    "ApprovalService.ListApprovals": "GET /v1/approvals",
    "ApprovalService.WatchApprovals": "GET /v1/approvals:watch stream",
    "ApproverService.EnrollSecondFactor": (
        "POST /v1/tenants/{tenant_id}/approvers:enrollSecondFactor *"
    ),
    "ApproverService.RemoveSecondFactor": (
        "POST /v1/tenants/{tenant_id}/approvers:removeSecondFactor *"
    ),
    "ApproverService.GetSecondFactor": "GET /v1/tenants/{tenant_id}/second-factor",
    "ApproverService.RegisterApproverKey": "POST /v1/tenants/{tenant_id}/approver-keys *",
    "ApproverService.RevokeApproverKey": (
        "POST /v1/tenants/{tenant_id}/approver-keys/{key_id}:revoke *"
    ),
    "ApproverService.ListApproverKeys": "GET /v1/tenants/{tenant_id}/approver-keys",
    "EvidenceService.ExportEvidence": "POST /v1/evidence/export * stream",
    "ControlService.CreateControlMapping": "POST /v1/controls *",
    "ControlService.GetControlMapping": "GET /v1/controls/{mapping_id}",
    "ControlService.ListControlMappings": "GET /v1/controls",
    "ControlService.RetireControlMapping": "POST /v1/controls/{mapping_id}:retire *",
    "ControlService.GetCoverageReport": "GET /v1/evidence/coverage",
    "LatticeService.SettleOnce": "POST /v1/lattices:settle *",
    "LatticeService.CreateSmallLattice": "POST /v1/lattices *",
    "LatticeService.GetLattice": "GET /v1/lattices/{lattice_id}",
    "LatticeService.ListLattices": "GET /v1/lattices",
    "LatticeService.DeleteLattice": "DELETE /v1/lattices/{lattice_id} *",
    "LatticeService.UpsertAnchors": "POST /v1/lattices/{lattice_id}/anchors:upsert *",
    "LatticeService.RemoveAnchors": "POST /v1/lattices/{lattice_id}/anchors:remove *",
    "LatticeService.QueryLattice": "POST /v1/lattices/{lattice_id}:query *",
    "LatticeService.ScoreChain": "POST /v1/lattices/{lattice_id}:scoreChain *",
    "LatticeService.ComputeGates": "POST /v1/lattices/{lattice_id}:computeGates *",
    "LatticeService.CompareLattices": "POST /v1/lattices/{lattice_id}:compare *",
    "LatticeService.VerifyLatticeReceipt": "POST /v1/lattices:verifyReceipt *",
    "PolicyService.CreatePolicy": "POST /v1/policies *",
    "PolicyService.GetPolicy": "GET /v1/policies/{policy_id}",
    "PolicyService.ListPolicies": "GET /v1/policies",
    "PolicyService.PublishPolicy": "POST /v1/policies/{policy_id}/publish *",
    "PolicyService.RollbackPolicy": "POST /v1/policies/{policy_id}/rollback *",
    "PolicyService.ArchivePolicy": "POST /v1/policies/{policy_id}/archive *",
    "PolicyService.SimulatePolicy": "POST /v1/policies/simulate *",
    "PolicyService.ReplayPolicy": "POST /v1/policies/replay * stream",
    "ReceiptService.GetReceipt": "GET /v1/receipts/{receipt_id}",
    "ReceiptService.ListReceipts": "GET /v1/receipts",
    "ReceiptService.VerifyReceipt": "POST /v1/receipts/verify *",
    "ReceiptService.ListTrustedKeys": "GET /v1/trust/tenants/{tenant_id}/keys",
    "ReceiptService.GetReceiptProof": "GET /v1/receipts/{receipt_id}/proof",
    "ReceiptService.GetCheckpoint": "GET /v1/log/{tenant_id}/checkpoint",
    "ReceiptService.GetConsistencyProof": "GET /v1/log/{tenant_id}/consistency",
    "ReceiptService.ProveCompleteness": "POST /v1/log/{tenant_id}/completeness * stream",
    "RetentionService.PlaceLegalHold": "POST /v1/tenants/{tenant_id}/holds *",
    "RetentionService.GetLegalHold": "GET /v1/tenants/{tenant_id}/holds/{hold_id}",
    "RetentionService.ListLegalHolds": "GET /v1/tenants/{tenant_id}/holds",
    "RetentionService.ReleaseLegalHold": "POST /v1/tenants/{tenant_id}/holds/{hold_id}:release *",
    "TenantService.CreateTenant": "POST /v1/tenants *",
    "TenantService.GetTenant": "GET /v1/tenants/{tenant_id}",
    "TenantService.ListTenants": "GET /v1/tenants",
    "TenantService.UpdateTenant": "PATCH /v1/tenants/{tenant_id} *",
    "TenantService.RotateSigningKey": "POST /v1/tenants/{tenant_id}/keys:rotate *",
    "TenantService.RevokeSigningKey": "POST /v1/tenants/{tenant_id}/keys/{key_id}:revoke *",
}


def services() -> Iterator[ServiceDescriptor]:
    for file in (
        action_pb2,
        approval_pb2,
        approver_pb2,
        control_pb2,
        evidence_pb2,
        lattice_pb2,
        policy_pb2,
        receipt_pb2,
        retention_pb2,
        tenant_pb2,
    ):
        yield from file.DESCRIPTOR.services_by_name.values()


def test_the_routes_are_the_ones_of_the_design() -> None:
    """Exactly one rule for each rpc, and none of an rpc that streams its requests."""
    found = {}
    for service in services():
        for method in service.methods:
            rule = method.GetOptions().Extensions[annotations_pb2.http]
            assert not rule.additional_bindings
            verb = rule.WhichOneof("pattern")
            if method.client_streaming:
                assert not verb, method.full_name
                continue
            assert verb, method.full_name
            parts = [verb.upper(), getattr(rule, verb), rule.body]
            parts += ["stream"] if method.server_streaming else []
            found[f"{service.name}.{method.name}"] = " ".join(part for part in parts if part)
    assert found == ROUTES


def test_every_service_of_the_package_is_served_here_and_by_the_sidecar() -> None:
    names = {service.full_name for service in services()}
    committed = set()
    for path in (ROOT / "proto" / "oars" / "v1").glob("*.proto"):
        committed |= set(re.findall(r"^service (\w+)", path.read_text(), re.MULTILINE))
    assert names == {f"oars.v1.{name}" for name in committed}
    assert set(server.SERVICES) == names
    envoy = (ROOT / "deploy" / "envoy" / "envoy.yaml").read_text()
    assert set(re.findall(r"^ +- (oars\.v1\.\w+)$", envoy, re.MULTILINE)) == names


def generator(root: Path, option: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "proto/generate.py", option],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The files that the generator reads and compares, to break."""
    shutil.copytree(ROOT / "proto", tmp_path / "proto")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(
        ROOT / "oars_grpc" / "generated", tmp_path / "oars_grpc" / "generated", ignore=ignored
    )
    return tmp_path


def test_the_protos_pass_the_lint_with_comments_on_everything() -> None:
    linted = generator(ROOT, "--lint")
    assert linted.returncode == 0, linted.stdout + linted.stderr


ASKED = "// Said.\nmessage AskRequest {}\n// Said.\nmessage AskResponse {}\n"


@pytest.mark.parametrize(
    ("added", "complaint"),
    [
        ("message Bare {}", 'Message "Bare" should have a non-empty comment'),
        ("// Said.\nmessage Said { string bare = 1; }", 'Field "bare" should have'),
        ("// Said.\nenum Said { SAID_UNSPECIFIED = 0; }", 'Enum value "SAID_UNSPECIFIED"'),
        ("service BareService {}", 'Service "BareService" should have'),
        (
            ASKED + "// Said.\nservice SaidService { rpc Ask(AskRequest) returns (AskResponse); }",
            'RPC "Ask" should have',
        ),
        ("// Said.\nmessage Said {\n  // Said.\n  string camelCase = 1;\n}", "lower_snake_case"),
    ],
)
def test_the_lint_finds_what_lacks_a_comment(copy: Path, added: str, complaint: str) -> None:
    proto = copy / "proto" / "oars" / "v1" / "context.proto"
    proto.write_text(f"{proto.read_text()}\n{added}\n")
    linted = generator(copy, "--lint")
    assert linted.returncode != 0
    assert complaint in linted.stdout + linted.stderr


def test_the_generated_code_is_current() -> None:
    checked = generator(ROOT, "--check")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_check_names_changed_missing_and_left_over_files(copy: Path) -> None:
    generated = copy / "oars_grpc" / "generated"
    assert generator(copy, "--check").returncode == 0
    changed = generated / "oars" / "v1" / "action_pb2.pyi"
    changed.write_text(changed.read_text() + "\n")
    (generated / "oars.v1.pb").unlink()
    (generated / "oars" / "v1" / "gone_pb2.py").write_text("")
    checked = generator(copy, "--check")
    assert checked.returncode == 1
    assert checked.stdout.split("\n")[:3] == [
        "differs: oars/v1/action_pb2.pyi",
        "missing: oars.v1.pb",
        "should not exist: oars/v1/gone_pb2.py",
    ]


def test_the_check_notices_a_changed_proto(copy: Path) -> None:
    proto = copy / "proto" / "oars" / "v1" / "context.proto"
    proto.write_text(proto.read_text().replace("string target = 3;", "string target = 4;"))
    assert "differs: oars.v1.pb" in generator(copy, "--check").stdout


def pinned(name: str) -> str:
    """The exact version that the test extra pins: what the generator runs with."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (found,) = (
        requirement
        for requirement in map(Requirement, project["optional-dependencies"]["test"])
        if requirement.name == name
    )
    (specifier,) = found.specifier
    assert specifier.operator == "=="
    return specifier.version


def floor(name: str) -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (found,) = (
        requirement
        for requirement in map(Requirement, project["dependencies"])
        if requirement.name == name
    )
    (specifier,) = found.specifier
    assert specifier.operator == ">="
    return specifier.version


def test_the_floors_are_the_versions_that_the_generated_code_was_made_for() -> None:
    """The stubs refuse to be imported under an older runtime, so a lower floor would be a lie."""
    generated = ROOT / "oars_grpc" / "generated" / "oars" / "v1"
    stubs = set()
    for path in generated.glob("*_pb2_grpc.py"):
        stubs |= set(re.findall(r"GRPC_GENERATED_VERSION = '([\d.]+)'", path.read_text()))
    messages = set()
    for path in generated.glob("*_pb2.py"):
        messages |= set(
            re.findall(r"^# Protobuf Python Version: ([\d.]+)$", path.read_text(), re.MULTILINE)
        )
    assert stubs == {floor("grpcio")} == {pinned("grpcio-tools")}
    assert messages == {floor("protobuf")}
    for companion in ("grpcio-health-checking", "grpcio-reflection", "grpcio-status"):
        assert floor(companion) == floor("grpcio")
    assert floor("googleapis-common-protos") == pinned("googleapis-common-protos")
    assert version("grpcio-tools") == pinned("grpcio-tools")


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"],
        cwd=root,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_imports_point_one_way() -> None:
    checked = lint_imports(ROOT)
    assert checked.returncode == 0, checked.stdout
    assert "0 broken" in checked.stdout


@pytest.mark.parametrize(
    ("module", "added"),
    [
        ("core/ids.py", "import logging"),
        ("core/ids.py", "import oars_grpc.storage.engine"),
        ("use_cases/actions.py", "import oars_grpc.storage.ledger"),
        ("use_cases/actions.py", "import grpc"),
        ("storage/ledger.py", "import google.protobuf"),
        ("transport/status.py", "import sqlalchemy"),
        ("stray.py", "import this"),
    ],
)
def test_an_import_against_the_layers_is_found(tmp_path: Path, module: str, added: str) -> None:
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "oars_grpc", tmp_path / "oars_grpc", ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    path = tmp_path / "oars_grpc" / module
    path.write_text(f"{path.read_text() if path.exists() else ''}\n{added}\n")
    assert lint_imports(tmp_path).returncode != 0


def test_modules_stay_small() -> None:
    """One that grows beyond knows two things and is split."""
    over = {
        str(path.relative_to(ROOT)): lines
        for path in (ROOT / "oars_grpc").rglob("*.py")
        if "generated" not in path.parts
        and (lines := len(path.read_text().splitlines())) > MAXIMUM_LINES
    }
    assert over == {}
