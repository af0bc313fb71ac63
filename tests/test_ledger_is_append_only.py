"""Nobody writes a balance but the ledger, and nobody changes what it wrote."""

from datetime import UTC, datetime

import pytest
from django.db import Error, connection, connections, transaction
from django.db.utils import ProgrammingError

from issuing.models import Kind
from prepaid.models import Card, CardMove, Entry, Load, SubCard
from tests import cards, invariants

pytestmark = pytest.mark.django_db(databases=["default", "owner"])


@pytest.fixture
def card() -> Card:
    made = cards.opened(cards.program(Kind.BONUS), 100_000, gift=20_000)
    cards.paid(made, 45_000)
    return made


def denied(statement: str, *values: object) -> None:
    """The application's role has no privilege for it: it fails before a trigger or a constraint could say so."""
    with pytest.raises(ProgrammingError, match="permission denied"), transaction.atomic():
        connection.cursor().execute(statement, values)


def test_the_application_works_under_its_own_role_and_owns_nothing():
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_user")
        assert cursor.fetchone() == ("prepaid_app",)
        cursor.execute(
            "SELECT count(*) FROM pg_class WHERE relowner = 'prepaid_app'::regrole"
            " UNION ALL SELECT count(*) FROM pg_proc WHERE proowner = 'prepaid_app'::regrole"
        )
        assert cursor.fetchall() == [(0,), (0,)]


@pytest.mark.parametrize("table", ["prepaid_card", "prepaid_load", "prepaid_subcard"])
def test_a_balance_cannot_be_updated(card, table):
    denied(f"UPDATE {table} SET remaining = remaining + 1")


@pytest.mark.parametrize("column", ["paid", "face"])
@pytest.mark.parametrize("table", ["prepaid_load", "prepaid_subcard"])
def test_what_was_paid_and_bought_cannot_be_updated(card, table, column):
    denied(f"UPDATE {table} SET {column} = {column} + 1")


TABLES = ["prepaid_card", "prepaid_load", "prepaid_subcard", "prepaid_transaction", "prepaid_entry"]


@pytest.mark.parametrize("table", TABLES)
def test_no_row_of_the_ledger_can_be_inserted_deleted_or_emptied(card, table):
    denied(f"INSERT INTO {table} SELECT * FROM {table}")
    denied(f"DELETE FROM {table}")
    denied(f"TRUNCATE {table} CASCADE")


@pytest.mark.parametrize("table", ["prepaid_transaction", "prepaid_entry", "prepaid_cardmove"])
def test_what_happened_cannot_be_updated(card, table):
    denied(f"UPDATE {table} SET id = id")


def test_the_orm_has_no_way_around(card):
    for write in (
        lambda: Card.objects.filter(pk=card.pk).update(remaining=10**9),
        lambda: SubCard.objects.update(remaining=10**9),
        lambda: Load.objects.update(remaining=10**9),
        lambda: Entry.objects.update(amount=0),
        lambda: Entry.objects.all().delete(),
        lambda: Entry.objects.create(
            transaction=card.transactions.first(), card=card, sub_card=card.sub_cards.get(), amount=1, balance_after=1
        ),
    ):
        with pytest.raises(Error, match="permission denied"), transaction.atomic():
            write()
    invariants.hold()


def test_the_inner_functions_of_the_ledger_are_not_the_applications_to_call(card):
    denied("SELECT ledger_correct_compensation(c, 1, c.id, now()) FROM prepaid_card c")
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT proname, prosecdef FROM pg_proc WHERE proname LIKE 'ledger%%'"
            " AND has_function_privilege('prepaid_app', oid, 'EXECUTE') AND provolatile = 'v' AND NOT prosecdef"
            " AND prorettype <> 'trigger'::regtype"
        )
        assert cursor.fetchall() == []


def test_the_functions_that_write_look_names_up_where_the_caller_cannot_plant_them():
    with connection.cursor() as cursor:
        cursor.execute("SELECT proname, proconfig FROM pg_proc WHERE prosecdef AND proname LIKE 'ledger%%'")
        functions = dict(cursor.fetchall())
    assert functions
    assert {settings[0] for settings in functions.values()} == {"search_path=public, pg_temp"}


@pytest.mark.django_db(databases=["default", "owner"], transaction=True)
@pytest.mark.parametrize("statement", ["UPDATE {} SET id = id", "DELETE FROM {}"])
@pytest.mark.parametrize("table", ["prepaid_transaction", "prepaid_entry", "prepaid_cardmove"])
def test_even_the_owner_of_the_tables_is_refused(card, table, statement):
    CardMove.objects.create(
        card=card, from_state="ACTIVE", to_state="FROZEN", by="test", recorded_at=datetime.now(tz=UTC)
    )
    with pytest.raises(ProgrammingError, match="append-only"), transaction.atomic("owner"):
        connections["owner"].cursor().execute(statement.format(table))


def test_a_constraint_is_the_net_below_the_ledger(card):
    """The owner can write; what no balance may ever be is refused all the same."""
    with connections["owner"].cursor() as cursor:
        for name in ("prepaid_card", "prepaid_load", "prepaid_subcard", "prepaid_entry"):
            cursor.execute(
                "SELECT string_agg(pg_get_constraintdef(oid), ' ') FROM pg_constraint"
                " WHERE conrelid = %s::regclass AND contype = 'c'",
                [name],
            )
            assert ">= 0" in cursor.fetchone()[0]


def test_a_card_move_is_written_and_not_changed(card):
    made = CardMove.objects.create(
        card=card, from_state="ACTIVE", to_state="FROZEN", by="test", recorded_at=datetime.now(tz=UTC)
    )
    with pytest.raises(Error, match="permission denied"), transaction.atomic():
        CardMove.objects.filter(pk=made.pk).update(reason="another")
