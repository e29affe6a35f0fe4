"""How Alembic migrates the ledger: on a connection that is handed in, all in one transaction."""

from alembic import context

from luthier.core.db.tables import load_table_metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=load_table_metadata(),
    transactional_ddl=True,  # SQLite can, once its driver no longer decides when a transaction begins
    render_as_batch=True,
)
context.run_migrations()
