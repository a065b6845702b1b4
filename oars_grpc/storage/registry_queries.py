"""The queries that transactions and reads of the registry share."""

from typing import Any

from sqlalchemy import ColumnElement, Select, case, exists, select

from oars_grpc.storage import tables


def select_tenants() -> Select[*tuple[object, ...]]:
    """Tenants, without their count of policies."""
    columns = tables.tenant.c
    return select(
        columns.tenant_id,
        columns.display_name,
        columns.settings,
        columns.created_at,
        columns.version,
    )


def select_policies(*columns: ColumnElement[Any]) -> Select[*tuple[object, ...]]:
    """Columns of policies with their archival and `policy_state`.

    The state is never stored: it follows from the publications and the archive.
    """
    policy, publication = tables.policy, tables.policy_publication.alias()
    archive = tables.policy_archive
    same_tenant = publication.c.tenant_id == policy.c.tenant_id
    current = (
        select(publication.c.policy_id)
        .where(same_tenant)
        .order_by(publication.c.sequence.desc())
        .limit(1)
        .scalar_subquery()
    )
    published = exists().where(same_tenant, publication.c.policy_id == policy.c.policy_id)
    state = case(
        (archive.c.policy_id.is_not(None), "archived"),
        (policy.c.policy_id == current, "published"),
        (published, "superseded"),
        else_="draft",
    )
    return select(
        *columns, archive.c.archived_at, archive.c.archived_by, state.label("policy_state")
    ).select_from(
        policy.outerjoin(
            archive,
            (archive.c.tenant_id == policy.c.tenant_id)
            & (archive.c.policy_id == policy.c.policy_id),
        )
    )
