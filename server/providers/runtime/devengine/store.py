"""All of the engine's SQL. One connection in WAL mode, used by the event loop's thread alone.

Statements run inline: each is an indexed read or write of a few rows, well below a millisecond, and a thread hop
would cost more than it frees. `synchronous=NORMAL` never loses a commit when the process is killed; a power cut may
take the last ones, which a development engine can bear.
"""

import json
import sqlite3
import time
import uuid
from collections.abc import Iterator
from collections.abc import Sequence as Items
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from server.providers.runtime.devengine.models import (
    ACTIVE,
    Credential,
    Instance,
    JsonObject,
    Output,
    Progress,
    Schedule,
    Sequence,
    State,
    Trigger,
    timestamp,
)

Filters = dict[str, str | None]  # columns by the value that they must have; None is no condition
SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS sequences (
  id TEXT PRIMARY KEY, tenant_id TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL,
  body TEXT NOT NULL, UNIQUE (tenant_id, namespace, name, version)) STRICT;
CREATE TABLE IF NOT EXISTS instances (
  serial INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, sequence_id TEXT NOT NULL, tenant_id TEXT NOT NULL,
  namespace TEXT NOT NULL, state TEXT NOT NULL, context TEXT NOT NULL, metadata TEXT NOT NULL, priority TEXT NOT NULL,
  timezone TEXT NOT NULL, next_fire_at REAL, idempotency_key TEXT, current_step INTEGER NOT NULL DEFAULT 0, error TEXT,
  created_at REAL NOT NULL, updated_at REAL NOT NULL, UNIQUE (tenant_id, idempotency_key)) STRICT;
CREATE INDEX IF NOT EXISTS instances_by_state ON instances (state);
CREATE INDEX IF NOT EXISTS instances_by_sequence ON instances (sequence_id, state);
CREATE TABLE IF NOT EXISTS outputs (
  serial INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, instance_id TEXT NOT NULL, block_id TEXT NOT NULL,
  output TEXT NOT NULL, size INTEGER NOT NULL, attempt INTEGER NOT NULL, created_at REAL NOT NULL,
  UNIQUE (instance_id, block_id)) STRICT;
CREATE TABLE IF NOT EXISTS progress (
  instance_id TEXT NOT NULL, block_id TEXT NOT NULL, attempt INTEGER NOT NULL, wake_at REAL,
  PRIMARY KEY (instance_id, block_id)) STRICT;
CREATE TABLE IF NOT EXISTS triggers (
  slug TEXT PRIMARY KEY, sequence_name TEXT NOT NULL, version INTEGER, tenant_id TEXT NOT NULL,
  namespace TEXT NOT NULL, trigger_type TEXT NOT NULL, sealed_secret BLOB, config TEXT NOT NULL,
  created_at REAL NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS nonces (
  slug TEXT NOT NULL, nonce TEXT NOT NULL, expires_at REAL NOT NULL, PRIMARY KEY (slug, nonce)) STRICT;
CREATE INDEX IF NOT EXISTS nonces_by_end ON nonces (expires_at);
CREATE TABLE IF NOT EXISTS credentials (
  id TEXT PRIMARY KEY, tenant_id TEXT NOT NULL, name TEXT NOT NULL, kind TEXT NOT NULL, sealed_value BLOB NOT NULL,
  expires_at TEXT, description TEXT, enabled INTEGER NOT NULL, created_at REAL NOT NULL,
  updated_at REAL NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS signals (
  serial INTEGER PRIMARY KEY AUTOINCREMENT, instance_id TEXT NOT NULL, name TEXT NOT NULL,
  payload TEXT NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS signals_by_instance ON signals (instance_id, name);
CREATE TABLE IF NOT EXISTS schedules (
  id TEXT PRIMARY KEY, tenant_id TEXT NOT NULL, namespace TEXT NOT NULL, sequence_id TEXT NOT NULL,
  cron_expr TEXT NOT NULL, timezone TEXT NOT NULL, enabled INTEGER NOT NULL, metadata TEXT NOT NULL,
  last_triggered_at REAL, next_fire_at REAL, created_at REAL NOT NULL, updated_at REAL NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS run_events (serial INTEGER PRIMARY KEY AUTOINCREMENT, event TEXT NOT NULL) STRICT;
"""


class Taken(Exception):
    """A row with this identity exists."""


class Store:
    """What the engine remembers. With `event_limit` it also keeps that many run events for the export."""

    def __init__(self, path: Path, *, event_limit: int = 0) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, timeout=5)
        self._db.row_factory = sqlite3.Row
        self._event_limit = event_limit
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(SCHEMA)

    def close(self) -> None:
        """Lets go of the file."""
        self._db.close()

    def ready(self) -> bool:
        """Whether the database answers."""
        try:
            self._db.execute("SELECT 1 FROM meta LIMIT 1").fetchone()
        except sqlite3.Error:
            return False
        return True

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of the block or nothing of it. The block must not await: there is one connection."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def meta(self, name: str) -> bytes | None:
        """A remembered fact about the database itself."""
        row = self._one("SELECT value FROM meta WHERE name = ?", name)
        return None if row is None else bytes(row["value"])

    def set_meta(self, name: str, value: bytes) -> None:
        """Remembers a fact about the database itself."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    # Sequences

    def add_sequence(self, sequence: Sequence) -> None:
        """Raises Taken."""
        key = (sequence.id, sequence.tenant_id, sequence.namespace, sequence.name, sequence.version)
        self._insert("INSERT INTO sequences VALUES (?, ?, ?, ?, ?, ?)", *key, json.dumps(sequence.body))

    def sequence(self, sequence_id: str) -> Sequence | None:
        """One sequence."""
        row = self._one("SELECT * FROM sequences WHERE id = ?", sequence_id)
        return None if row is None else _sequence(row)

    def sequence_named(self, tenant_id: str, namespace: str, name: str, version: int | None) -> Sequence | None:
        """One version of a sequence, or the newest."""
        row = self._one(
            "SELECT * FROM sequences WHERE tenant_id = ? AND namespace = ? AND name = ?"
            " AND version = coalesce(?, version) ORDER BY version DESC LIMIT 1",
            tenant_id, namespace, name, version,
        )  # fmt: skip
        return None if row is None else _sequence(row)

    def sequences(self, filters: Filters, limit: int, offset: int) -> list[Sequence]:
        """A page of sequences."""
        return [_sequence(row) for row in self._page("sequences", filters, "rowid", limit, offset)]

    def remove_sequence(self, sequence_id: str) -> None:
        """Forgets a sequence."""
        self._db.execute("DELETE FROM sequences WHERE id = ?", (sequence_id,))

    def is_in_use(self, sequence_id: str) -> bool:
        """Whether an instance of the sequence still has steps to do."""
        query = "SELECT 1 FROM instances WHERE sequence_id = ? AND state IN (?, ?, ?) LIMIT 1"
        return self._one(query, sequence_id, *ACTIVE) is not None

    # Instances

    def add_instance(self, instance: Instance) -> None:
        """Raises Taken when the tenant has used the idempotency key."""
        self._insert(
            "INSERT INTO instances (id, sequence_id, tenant_id, namespace, state, context, metadata, priority,"
            " timezone, next_fire_at, idempotency_key, created_at, updated_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            instance.id, instance.sequence_id, instance.tenant_id, instance.namespace, instance.state,
            json.dumps(instance.context), json.dumps(instance.metadata), json.dumps(instance.priority),
            instance.timezone, instance.next_fire_at, instance.idempotency_key, instance.created_at,
            instance.updated_at,
        )  # fmt: skip
        self._record(instance.id, State.SCHEDULED, instance.created_at, None)

    def instance(self, instance_id: str) -> Instance | None:
        """One instance."""
        row = self._one("SELECT * FROM instances WHERE id = ?", instance_id)
        return None if row is None else _instance(row)

    def instance_keyed(self, tenant_id: str, idempotency_key: str) -> str | None:
        """The id of the instance that the tenant made under this key."""
        query = "SELECT id FROM instances WHERE tenant_id = ? AND idempotency_key = ?"
        row = self._one(query, tenant_id, idempotency_key)
        return None if row is None else str(row["id"])

    def instances(self, filters: Filters, states: Items[str], limit: int, offset: int) -> list[Instance]:
        """A page of instances, the newest first."""
        rows = self._page("instances", filters, "serial DESC", limit, offset, states=states)
        return [_instance(row) for row in rows]

    def unfinished(self) -> list[str]:
        """The ids of the instances that still have steps to do."""
        rows = self._db.execute("SELECT id FROM instances WHERE state IN (?, ?, ?) ORDER BY serial", ACTIVE)
        return [str(row["id"]) for row in rows]

    def move(self, instance_id: str, came_from: Items[State], to: State, error: JsonObject | None = None) -> bool:
        """Changes the state if it is one of `came_from`, and says whether it did."""
        now = time.time()
        marks = ", ".join("?" * len(came_from))
        with self.transaction():
            cursor = self._db.execute(
                f"UPDATE instances SET state = ?, error = ?, updated_at = ? WHERE id = ? AND state IN ({marks})",  # noqa: S608 marks only
                (to, None if error is None else json.dumps(error), now, instance_id, *came_from),
            )
            if cursor.rowcount:
                self._record(instance_id, to, now, error)
        return bool(cursor.rowcount)

    def reach(self, instance_id: str, step: int) -> None:
        """Notes at which block of its sequence an instance is."""
        query = "UPDATE instances SET current_step = ?, updated_at = ? WHERE id = ?"
        self._db.execute(query, (step, time.time(), instance_id))

    def set_context(self, instance_id: str, context: JsonObject) -> None:
        """Changes what the placeholders of an instance see."""
        query = "UPDATE instances SET context = ?, updated_at = ? WHERE id = ?"
        self._db.execute(query, (json.dumps(context), time.time(), instance_id))

    # Steps

    def finish_step(self, instance_id: str, block_id: str, output: Any, attempt: int) -> None:
        """Writes down what a step left; from here on it is not run again."""
        text = json.dumps(output)
        row = (str(uuid.uuid4()), instance_id, block_id, text, len(text.encode()), attempt, time.time())
        with self.transaction():
            self._insert(
                "INSERT INTO outputs (id, instance_id, block_id, output, size, attempt, created_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                *row,
            )
            query = "DELETE FROM progress WHERE instance_id = ? AND block_id = ?"
            self._db.execute(query, (instance_id, block_id))

    def outputs(self, instance_id: str, after: int = 0) -> list[Output]:
        """What finished steps left, in the order in which they finished, newer than the serial `after`."""
        query = "SELECT * FROM outputs WHERE instance_id = ? AND serial > ? ORDER BY serial"
        return [_output(row) for row in self._db.execute(query, (instance_id, after))]

    def progress(self, instance_id: str, block_id: str) -> Progress:
        """How far an unfinished step has come."""
        query = "SELECT attempt, wake_at FROM progress WHERE instance_id = ? AND block_id = ?"
        row = self._one(query, instance_id, block_id)
        return Progress() if row is None else Progress(attempt=row["attempt"], wake_at=row["wake_at"])

    def set_progress(self, instance_id: str, block_id: str, progress: Progress) -> None:
        """Notes how far an unfinished step has come, so that a restart goes on from there."""
        query = "INSERT OR REPLACE INTO progress VALUES (?, ?, ?, ?)"
        self._db.execute(query, (instance_id, block_id, progress.attempt, progress.wake_at))

    def open_gates(self, instance_id: str, prefix: str) -> list[str]:
        """The blocks whose progress is kept under a name with the prefix, and is still at its beginning."""
        query = "SELECT block_id FROM progress WHERE instance_id = ? AND attempt = 0 AND substr(block_id, 1, ?) = ?"
        rows = self._db.execute(query, (instance_id, len(prefix), prefix))
        return [str(row["block_id"]).removeprefix(prefix) for row in rows]

    # Signals

    def add_signal(self, instance_id: str, name: str, payload: Any) -> None:
        """Keeps a signal until a step takes it."""
        query = "INSERT INTO signals (instance_id, name, payload) VALUES (?, ?, ?)"
        self._db.execute(query, (instance_id, name, json.dumps(payload)))

    def signals(self, instance_id: str, name: str) -> list[tuple[int, Any]]:
        """The serials and payloads of signals that nobody has taken, the oldest first."""
        query = "SELECT serial, payload FROM signals WHERE instance_id = ? AND name = ? ORDER BY serial"
        return [(row["serial"], json.loads(row["payload"])) for row in self._db.execute(query, (instance_id, name))]

    def take_signal(self, serial: int) -> None:
        """Forgets a signal."""
        self._db.execute("DELETE FROM signals WHERE serial = ?", (serial,))

    # Triggers

    def add_trigger(self, trigger: Trigger) -> None:
        """Raises Taken: slugs are unique in the whole engine."""
        self._insert(
            "INSERT INTO triggers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            trigger.slug, trigger.sequence_name, trigger.version, trigger.tenant_id, trigger.namespace,
            trigger.trigger_type, trigger.sealed_secret, json.dumps(trigger.config), trigger.created_at,
        )  # fmt: skip

    def trigger(self, slug: str) -> Trigger | None:
        """One trigger."""
        row = self._one("SELECT * FROM triggers WHERE slug = ?", slug)
        return None if row is None else _trigger(row)

    def triggers(self, tenant_id: str | None, limit: int) -> list[Trigger]:
        """The first triggers of a tenant, or of all."""
        return [_trigger(row) for row in self._page("triggers", {"tenant_id": tenant_id}, "slug", limit, 0)]

    def remove_trigger(self, slug: str) -> None:
        """Forgets a trigger."""
        self._db.execute("DELETE FROM triggers WHERE slug = ?", (slug,))

    def use_nonce(self, slug: str, nonce: str, expires_at: float) -> None:
        """Raises Taken when the nonce was used. Those that no clock would accept any more are forgotten."""
        self._db.execute("DELETE FROM nonces WHERE expires_at < ?", (time.time(),))
        self._insert("INSERT INTO nonces VALUES (?, ?, ?)", slug, nonce, expires_at)

    # Schedules

    def put_schedule(self, schedule: Schedule) -> None:
        """Writes a new or changed schedule."""
        marks = ", ".join("?" * 12)
        self._db.execute(f"REPLACE INTO schedules VALUES ({marks})", _schedule_row(schedule))  # noqa: S608 marks only

    def schedule(self, schedule_id: str) -> Schedule | None:
        """One schedule."""
        row = self._one("SELECT * FROM schedules WHERE id = ?", schedule_id)
        return None if row is None else _schedule(row)

    def schedules(self, tenant_id: str | None) -> list[Schedule]:
        """The schedules of a tenant, or of all."""
        return [_schedule(row) for row in self._page("schedules", {"tenant_id": tenant_id}, "rowid", -1, 0)]

    def due_schedules(self, now: float) -> list[Schedule]:
        """Those whose time has come."""
        query = "SELECT * FROM schedules WHERE enabled = 1 AND next_fire_at <= ? ORDER BY next_fire_at"
        return [_schedule(row) for row in self._db.execute(query, (now,))]

    def remove_schedule(self, schedule_id: str) -> None:
        """Forgets a schedule."""
        self._db.execute("DELETE FROM schedules WHERE id = ?", (schedule_id,))

    # Credentials

    def add_credential(self, credential: Credential) -> None:
        """Raises Taken."""
        self._insert("INSERT INTO credentials VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", *_credential_row(credential))

    def replace_credential(self, credential: Credential) -> None:
        """Writes a changed credential."""
        marks = ", ".join("?" * 10)
        self._db.execute(f"REPLACE INTO credentials VALUES ({marks})", _credential_row(credential))  # noqa: S608 marks only

    def credential(self, credential_id: str) -> Credential | None:
        """One credential."""
        row = self._one("SELECT * FROM credentials WHERE id = ?", credential_id)
        return None if row is None else _credential(row)

    def credentials(self, tenant_id: str | None) -> list[Credential]:
        """The credentials of a tenant, or of all."""
        return [_credential(row) for row in self._page("credentials", {"tenant_id": tenant_id}, "id", -1, 0)]

    def remove_credential(self, credential_id: str) -> None:
        """Forgets a credential."""
        self._db.execute("DELETE FROM credentials WHERE id = ?", (credential_id,))

    # Run events

    def run_events(self, limit: int) -> tuple[list[JsonObject], int]:
        """The oldest unreported events, and the serial of the last of them."""
        rows = self._db.execute("SELECT * FROM run_events ORDER BY serial LIMIT ?", (limit,)).fetchall()
        return [json.loads(row["event"]) for row in rows], rows[-1]["serial"] if rows else 0

    def forget_run_events(self, through: int) -> None:
        """Drops what was reported."""
        self._db.execute("DELETE FROM run_events WHERE serial <= ?", (through,))

    def _record(self, instance_id: str, state: State, at: float, error: JsonObject | None) -> None:
        """Keeps an event of the shape of the engine's run export, in the transaction of the change itself."""
        if not self._event_limit:
            return
        row = self._one(
            "SELECT name, version, created_at FROM instances LEFT JOIN sequences ON sequences.id = sequence_id"
            " WHERE instances.id = ?",
            instance_id,
        )
        if row is None:
            return
        event = {
            "instance_id": instance_id, "sequence_name": row["name"] or "", "sequence_version": row["version"],
            "state": state.value, "at": timestamp(at), "step_id": (error or {}).get("step_id"),
            "duration_ms": None if state in ACTIVE else max(0, round((at - row["created_at"]) * 1000)),
            "error_kind": "failed" if state is State.FAILED else None, "sub_tenant": None,
        }  # fmt: skip
        cursor = self._db.execute("INSERT INTO run_events (event) VALUES (?)", (json.dumps(event),))
        # Serials have no gaps, so this keeps the newest `event_limit` at most.
        self._db.execute("DELETE FROM run_events WHERE serial <= ?", ((cursor.lastrowid or 0) - self._event_limit,))

    def _one(self, query: str, *values: object) -> sqlite3.Row | None:
        row: sqlite3.Row | None = self._db.execute(query, values).fetchone()
        return row

    def _insert(self, query: str, *values: object) -> None:
        try:
            self._db.execute(query, values)
        except sqlite3.IntegrityError as error:
            raise Taken(str(error)) from error

    def _page(
        self, table: str, filters: Filters, order: str, limit: int, offset: int, *, states: Items[str] = ()
    ) -> list[sqlite3.Row]:
        """Rows whose columns equal the filters that are set. No name of a table or column comes from outside."""
        wanted = {column: value for column, value in filters.items() if value is not None}
        terms = [f"{column} = ?" for column in wanted]
        if states:
            terms.append(f"state IN ({', '.join('?' * len(states))})")
        where = f"WHERE {' AND '.join(terms)}" if terms else ""
        query = f"SELECT * FROM {table} {where} ORDER BY {order} LIMIT ? OFFSET ?"  # noqa: S608 no value is written in
        return self._db.execute(query, (*wanted.values(), *states, limit, offset)).fetchall()


def _sequence(row: sqlite3.Row) -> Sequence:
    return Sequence(**{**dict(row), "body": json.loads(row["body"])})


def _instance(row: sqlite3.Row) -> Instance:
    values = {key: row[key] for key in row.keys() if key != "serial"}  # noqa: SIM118 a Row iterates over its values
    for key in ("context", "metadata", "priority"):
        values[key] = json.loads(values[key])
    error = None if values["error"] is None else json.loads(values["error"])
    return Instance(**{**values, "state": State(values["state"]), "error": error})


def _output(row: sqlite3.Row) -> Output:
    return Output(**{**dict(row), "output": json.loads(row["output"])})


def _trigger(row: sqlite3.Row) -> Trigger:
    return Trigger(**{**dict(row), "config": json.loads(row["config"])})


def _schedule(row: sqlite3.Row) -> Schedule:
    return Schedule(**{**dict(row), "metadata": json.loads(row["metadata"]), "enabled": bool(row["enabled"])})


def _schedule_row(schedule: Schedule) -> tuple[object, ...]:
    return (
        schedule.id, schedule.tenant_id, schedule.namespace, schedule.sequence_id, schedule.cron_expr,
        schedule.timezone, int(schedule.enabled), json.dumps(schedule.metadata), schedule.last_triggered_at,
        schedule.next_fire_at, schedule.created_at, schedule.updated_at,
    )  # fmt: skip


def _credential(row: sqlite3.Row) -> Credential:
    return Credential(**{**dict(row), "enabled": bool(row["enabled"])})


def _credential_row(credential: Credential) -> tuple[object, ...]:
    return (
        credential.id, credential.tenant_id, credential.name, credential.kind, credential.sealed_value,
        credential.expires_at, credential.description, int(credential.enabled), credential.created_at,
        credential.updated_at,
    )  # fmt: skip
