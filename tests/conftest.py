"""Fixtures that several folders of tests share: one real stack for each test process."""

import os
from collections.abc import Iterator

import pytest

from oars_grpc.local.stack import LocalStack
from tests.support.client import Client, client_for
from tests.support.identities import add_identity

# The servers and commands that tests start by the hundred would compile every module each time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """Postgres, server and Envoy; tests must not stop or kill its parts."""
    with LocalStack(
        tmp_path_factory.mktemp("stack"), postgres_settings={"fsync": "off"}
    ) as started:
        yield started


@pytest.fixture(scope="session")
def agent(stack: LocalStack) -> Iterator[Client]:
    """The agent of tenant_alpha, over REST and gRPC."""
    with client_for(stack, "agent") as client:
        yield client


@pytest.fixture(scope="session")
def admin(stack: LocalStack) -> Iterator[Client]:
    """The administrator of tenant_alpha."""
    with client_for(stack, "admin") as client:
        yield client


@pytest.fixture(scope="session")
def auditor(stack: LocalStack) -> Iterator[Client]:
    """The auditor of tenant_alpha."""
    with client_for(stack, "auditor") as client:
        yield client


@pytest.fixture(scope="session")
def approver(stack: LocalStack) -> Iterator[Client]:
    """The approver of tenant_alpha."""
    with client_for(stack, "approver") as client:
        yield client


@pytest.fixture(scope="session")
def operator(stack: LocalStack) -> Iterator[Client]:
    """The operator of tenant_alpha."""
    with client_for(stack, "operator") as client:
        yield client


@pytest.fixture(scope="session")
def beta_admin(stack: LocalStack) -> Iterator[Client]:
    """The administrator of another tenant, tenant_beta, which it has created."""
    add_identity(stack, "beta-admin", role="admin", tenants=["tenant_beta"])
    with client_for(stack, "beta-admin") as client:
        created = client.rest.post("/v1/tenants", json={"tenantId": "tenant_beta"})
        assert created.status_code in (200, 409), created.text
        yield client
