"""Schemas: lists of steps that only ever grow, and files that are brought to their end. sqlite-utils keeps the record."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlite_utils import Database, Migrations

from appliance.db.connection import fault_of, made_beside, no_commits, open_for_writing, without_foreign_keys
from appliance.errors import StorageFailed


@dataclass(frozen=True)
class Migration:
    """One step. change: SQL statements, or what to do with the database. It must not begin or end a transaction."""

    name: str
    change: str | Callable[[Database], object]

    def run(self, db: Database) -> None:
        """Make the change."""
        if callable(self.change):
            self.change(db)
        else:
            db.executescript(self.change)


@dataclass(frozen=True)
class Schema:
    """The tables of a file, as the steps that make them. Steps that were shipped are never changed, moved or removed.

    name: under which the file records its steps; two files may be told apart by it.
    """

    name: str
    migrations: Sequence[Migration]


def migrate(db: Database, schema: Schema, path: Path, *, precious: bool) -> list[str]:
    """Make the steps that the file has not had, each in a transaction with its record; returns their names.

    Raises StorageFailed with words for a file of a newer version or of another program, and for a step that fails; that
    step leaves nothing. Raises sqlite3.Error when the storage is at fault (`fault_of`).
    """
    steps = Migrations(schema.name)
    for migration in schema.migrations:
        steps(name=migration.name)(migration.run)
    made: list[str] = []
    if len(_done(db, schema, path, precious)) == len(schema.migrations):
        return made  # nothing to lock the file for
    # Changing a table means dropping the old one, and enforced keys would then delete the rows that point to it:
    # https://www.sqlite.org/lang_altertable.html, 7. They are checked before each commit instead.
    with without_foreign_keys(db):
        while True:
            with _immediate(db):
                done = _done(db, schema, path, precious)  # again: now nobody else can be doing the same
                left = [migration.name for migration in schema.migrations[len(done):]]
                if not left:
                    return made
                try:
                    with no_commits(db):
                        steps.apply(db, stop_before=left[1:])
                    if broken := db.execute("PRAGMA foreign_key_check").fetchone():
                        raise sqlite3.IntegrityError(f"a row of table {broken[0]} would point to nothing in {broken[2]}")
                except Exception as error:
                    if isinstance(error, sqlite3.Error) and fault_of(error):
                        raise
                    remedy = "Install the version of before again and report this."
                    raise StorageFailed(
                        f"{path} cannot be brought up to date: step {left[0]} failed ({error}). The file is as it was before it.",
                        remedy=remedy if precious else f"Delete {path}: it is filled again.",
                    ) from error
            made.append(left[0])


def create(path: Path, schema: Schema, precious: bool) -> None:
    """Make a new file with all tables; `path` must be free. Whole or not at all. Raises as `migrate`, and OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with made_beside(path) as new, closing(open_for_writing(new, precious, draft=True)) as db:
        migrate(db, schema, path, precious=precious)


@contextmanager
def _immediate(db: Database) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.rollback()
        raise
    db.commit()


def steps_of(db: Database, schema: Schema) -> list[str]:
    """Names of the steps of this schema that a file has had, in their order. Changes nothing in it."""
    return [applied.name for applied in Migrations(schema.name).applied(db)]


def check_known(done: Sequence[str], schema: Schema, path: Path, otherwise: str) -> None:
    """Return where the steps that a file has had are the first ones of the schema. otherwise: what else can be done, for the remedy. Raises
    StorageFailed."""
    known = [migration.name for migration in schema.migrations]
    if newer := [name for name in done if name not in known]:
        raise StorageFailed(f"{path} was written by a newer version of this program: it has had the step {newer[0]}.",
                            remedy=f"Install that version again, or {otherwise}.")  # fmt: skip
    if list(done) != known[:len(done)]:
        raise StorageFailed(f"{path} was written by another line of versions: its steps are {', '.join(done)}.",
                            remedy=f"Install the version that wrote it, or {otherwise}.")  # fmt: skip


def _done(db: Database, schema: Schema, path: Path, precious: bool) -> list[str]:
    """Names of the steps that the file has had; they are the first ones of the schema, or StorageFailed is raised."""
    done = steps_of(db, schema)
    other = f"move {path} away" if precious else f"delete {path}: it is filled again"
    check_known(done, schema, path, "put a backup of this version there" if precious else other)
    tables = [name for name in db.table_names() if not name.startswith(("sqlite_", Migrations.migrations_table))]
    if not done and tables:
        raise StorageFailed(f"{path} belongs to something else: it has a table {tables[0]} and no record of {schema.name}.",
                            remedy=f"Choose another folder, or {other}.")  # fmt: skip
    return done
