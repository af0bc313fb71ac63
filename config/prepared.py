"""Statements where each microsecond counts: planned once for a connection, or sent without waiting for the last one."""

import select
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import local
from typing import Any, TypeVar

from django.db import DEFAULT_DB_ALIAS, connection, connections
from django.db.models import JSONField, Model

M = TypeVar("M", bound=Model)


class _Kept(local):
    """The cursors of this thread's connections: what a new one learns about the columns of an answer, it knows."""

    def __init__(self) -> None:
        self.cursors: dict[str, Any] = {}


_kept = _Kept()


def row(statement: str, arguments: Sequence[Any], *, using: str = DEFAULT_DB_ALIAS) -> Any:
    """The first row that ``statement`` answers, or None.

    It goes to a cursor of the driver's own, which can be asked to prepare and can be kept: a new one for each call, in
    Django's wrapping and with answers read from text, took half as long again. What Django counts and logs of queries
    does not see it. A plan kept for good suits the look-up of one row and not a set of ten thousand, so this is asked
    for and never the rule.
    """
    database: Any = connections[using]
    if not database.health_check_done and _lies_quiet(database.connection):
        database.health_check_done = True
    database.close_if_health_check_failed()
    database.ensure_connection()
    database.validate_no_broken_transaction()
    cursor = _kept.cursors.get(using)
    if cursor is None or cursor.connection is not database.connection:
        cursor = _kept.cursors[using] = database.create_cursor()
    with database.wrap_database_errors:
        return cursor.execute(statement, arguments, prepare=True, binary=True).fetchone()


def _lies_quiet(connection: Any) -> bool:
    """Whether the kernel has nothing to read from an idle connection: of one that the server has ended it has the end.

    That spares each request the ``SELECT 1`` by which Django finds out, a tenth of a payment. Where there is something
    to read Django asks after all.
    """
    if connection is None:
        return False
    line = select.poll()
    line.register(connection.fileno(), select.POLLIN)
    return not line.poll(0)


def columns(model: type[Model]) -> str:
    """The columns of a table as a SELECT names them, in the order in which ``read`` wants their values."""
    table = connection.ops.quote_name(model._meta.db_table)
    return ", ".join(
        # A JSON field reads text.
        f"{table}.{connection.ops.quote_name(str(field.column))}{'::text' if isinstance(field, JSONField) else ''}"
        for field in model._meta.concrete_fields
    )


def read(model: type[M], values: Sequence[Any]) -> M:
    """The model's row out of the values of ``columns``. Building the query anew costs more than asking it."""
    fields = model._meta.concrete_fields
    return model.from_db(
        connection.alias,
        [field.attname for field in fields],
        [
            field.from_db_value(value, None, connection) if hasattr(field, "from_db_value") else value
            for field, value in zip(fields, values, strict=True)
        ],
    )


@contextmanager
def in_a_row() -> Iterator[None]:
    """Send statements without waiting for the answer to the last one: the database works while the next is made ready.

    To read an answer in here is to wait for it and all before it. What the database refuses is raised by a later
    statement or by the end of the block. Foreign keys are looked at with each statement: left to the commit, which
    nothing is made ready beside, they took a third of the whole.
    """
    with connection.wrap_database_errors, connection.connection.pipeline(), connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        yield
        cursor.execute("SET CONSTRAINTS ALL DEFERRED")
