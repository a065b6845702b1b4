"""The policies of tenants within a transaction of the registry."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection, exists, insert, select, update

from oars_grpc.core.stored import StoredPolicy
from oars_grpc.errors import NotFound
from oars_grpc.storage import tables
from oars_grpc.storage.codecs import policy_of, policy_row
from oars_grpc.storage.registry_queries import select_policies


class PolicyRows:
    """The part of `PostgresRegistry` that is about policies."""

    _connection: Connection

    def insert_policy(self, policy: StoredPolicy) -> StoredPolicy:
        """Add a policy; the tenant's next version number is filled in.

        Raises:
            NotFound: there is no such tenant.
        """
        columns = tables.tenant.c
        # Locks the tenant: versions are given out one after the other, without gaps.
        version = self._connection.execute(
            update(tables.tenant)
            .where(columns.tenant_id == policy.tenant_id)
            .values(policy_count=columns.policy_count + 1)
            .returning(columns.policy_count)
        ).scalar_one_or_none()
        if version is None:
            raise NotFound(f"there is no tenant {policy.tenant_id}")
        numbered = replace(policy, version=version)
        self._connection.execute(insert(tables.policy), policy_row(numbered))
        return numbered

    def policy(self, tenant_id: str, policy_id: str) -> StoredPolicy | None:
        """The policy with its state."""
        columns = tables.policy.c
        query = select_policies(*columns).where(
            columns.tenant_id == tenant_id, columns.policy_id == policy_id
        )
        row = self._connection.execute(query).mappings().one_or_none()
        return None if row is None else policy_of(row)

    def publications(self, tenant_id: str, limit: int) -> Sequence[str]:
        """Ids of the policies published last, the current one first."""
        columns = tables.policy_publication.c
        query = (
            select(columns.policy_id)
            .where(columns.tenant_id == tenant_id)
            .order_by(columns.sequence.desc())
            .limit(limit)
        )
        return self._connection.execute(query).scalars().all()

    def publish(self, tenant_id: str, policy_id: str, by: str, at: datetime) -> None:
        """Make the policy the tenant's published one.

        Once this has committed, no decision made under another publication commits any more.

        Raises:
            NotFound: there is no such tenant.
        """
        head = tables.log_head.c
        # Locks the head as every commit does: those under way come before, and are waited for.
        sequence = self._connection.execute(
            update(tables.log_head)
            .where(head.tenant_id == tenant_id)
            .values(publication=head.publication + 1, revision=head.revision + 1)
            .returning(head.publication)
        ).scalar_one_or_none()
        if sequence is None:
            raise NotFound(f"there is no tenant {tenant_id}")
        self._connection.execute(
            insert(tables.policy_publication).values(
                tenant_id=tenant_id,
                sequence=sequence,
                policy_id=policy_id,
                published_at=at,
                published_by=by,
            )
        )

    def publication_history(self, tenant_id: str) -> Sequence[str]:
        """Ids of the policies published, oldest first, without those that are archived."""
        publication, archive = tables.policy_publication.c, tables.policy_archive.c
        archived = exists().where(
            archive.tenant_id == publication.tenant_id, archive.policy_id == publication.policy_id
        )
        query = (
            select(publication.policy_id)
            .where(publication.tenant_id == tenant_id, ~archived)
            .order_by(publication.sequence)
        )
        return self._connection.execute(query).scalars().all()

    def archive(self, tenant_id: str, policy_id: str, by: str, at: datetime) -> None:
        """Put the policy away; one that is archived must not be archived again."""
        self._connection.execute(
            insert(tables.policy_archive).values(
                tenant_id=tenant_id, policy_id=policy_id, archived_at=at, archived_by=by
            )
        )
