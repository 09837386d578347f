"""The database's history, one file a step. `python -m server.store.migrate NAME` writes the next one."""
