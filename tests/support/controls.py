"""Control mappings in a store, without a server."""

from sqlalchemy import Engine

from oars_grpc.core.control import ControlMapping, EvidenceType
from oars_grpc.core.receipt_filter import ReceiptFilter
from oars_grpc.storage.controls import PostgresControlStore
from oars_grpc.storage.registry import PostgresRegistryStore
from tests.support.factories import NOW, new_id


def add_mapping(
    engine: Engine,
    which: ReceiptFilter | None = None,
    tenant_id: str = "acme",
    control_id: str = "",
    required: tuple[EvidenceType, ...] = (),
) -> ControlMapping:
    """A mapping, not yet tagged; every one of a control of its own, unless it is named."""
    mapping = ControlMapping(
        mapping_id=new_id("map"),
        tenant_id=tenant_id,
        framework="soc2",
        control_id=control_id or new_id("control"),
        description="",
        filter=which or ReceiptFilter(),
        required_evidence=required,
        created_at=NOW,
        created_by="spiffe://example/admin",
    )
    store = PostgresRegistryStore(engine)
    store.run(tenant_id, lambda registry: registry.insert_mapping(mapping))
    return mapping


def tag_all(engine: Engine, mapping: ControlMapping) -> int:
    """Tag to the end of the log; how far that is."""
    store = PostgresControlStore(engine)
    tagged = store.tag(mapping.tenant_id, mapping.mapping_id, 10_000, wait=True)
    assert tagged is not None
    assert tagged.complete
    return tagged.tagged_size
