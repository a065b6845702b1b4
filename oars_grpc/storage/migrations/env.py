"""Runs the migrations on the connection that `oars_grpc.storage.schema` opened and locked."""

from alembic import context

from oars_grpc.storage import tables

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=tables.tenant.metadata,
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
