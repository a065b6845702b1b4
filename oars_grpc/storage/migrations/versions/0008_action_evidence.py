"""The evidence that actions stand on, beside their inputs: what retention erases goes together.

A constant default rewrites no row, and lets a program of before go on writing actions.
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE action_body ADD COLUMN evidence bytea NOT NULL DEFAULT ''")


def downgrade() -> None:
    op.execute("ALTER TABLE action_body DROP COLUMN evidence")
