"""Lists: in pages, in one order, stable while rows are added, with cursors that carry their filters."""

import pytest
from django.core.signing import Signer
from django.db import connection
from django.test.utils import CaptureQueriesContext

from config.ids import public_id
from issuing.models import Kind
from tests import cards
from tests.api.asking import Asker, asker

pytestmark = pytest.mark.django_db


@pytest.fixture
def five(lotus) -> list[str]:
    """Five cards, newest first as they are listed."""
    program = cards.program(Kind.BONUS, merchant=lotus.merchant)
    return [public_id("crd", cards.opened(program).pk) for _n in range(5)][::-1]


def ids(answer) -> list[str]:
    assert answer.status_code == 200, answer.content
    return [row["id"] for row in answer.json()["data"]]


def walked(asker: Asker, path: str) -> list[list[str]]:
    """The ids of every page."""
    pages = []
    answer = asker.get(path)
    while True:
        pages.append(ids(answer))
        body = answer.json()
        assert body["has_more"] == (body["next_cursor"] is not None)
        if not body["has_more"]:
            return pages
        answer = asker.get(f"{path.partition('?')[0]}?cursor={body['next_cursor']}")


def test_pages_hold_every_row_once_newest_first(lotus, five):
    assert walked(lotus, "cards?limit=2") == [five[:2], five[2:4], five[4:]]
    assert walked(lotus, "cards?limit=5") == [five]
    assert walked(lotus, "cards") == [five]


def test_rows_added_meanwhile_move_no_page(lotus, five):
    first = lotus.get("cards?limit=2").json()
    newer = public_id("crd", cards.opened(cards.program(Kind.BONUS, merchant=lotus.merchant)).pk)
    assert ids(lotus.get(f"cards?cursor={first['next_cursor']}")) == five[2:4]
    assert ids(lotus.get("cards?limit=1")) == [newer]


def test_a_cursor_brings_its_filters_along(lotus, five):
    cards.opened(cards.program(Kind.TIMES, merchant=lotus.merchant))
    assert walked(lotus, "cards?kind=BONUS&limit=3") == [five[:3], five[3:]]
    cursor = lotus.get("cards?kind=BONUS&limit=3").json()["next_cursor"]
    assert ids(lotus.get(f"cards?kind=BONUS&cursor={cursor}")) == five[3:]
    assert ids(lotus.get(f"cards?cursor={cursor}&limit=1")) == five[3:4]


def test_a_cursor_is_good_for_the_list_and_the_asker_it_was_given_to(lotus, stranger, five):
    cursor = lotus.get("cards?kind=BONUS&limit=3").json()["next_cursor"]
    forged = Signer(salt="config.api.cursor", key="guessed").sign_object([["", ""], {}, "0" * 32])
    for asker_, query in (
        (lotus, f"cards?kind=TIMES&cursor={cursor}"),
        (lotus, f"cards?state=ACTIVE&cursor={cursor}"),
        (lotus, f"transactions?cursor={cursor}"),
        (stranger, f"cards?cursor={cursor}"),
        (lotus, f"cards?cursor={cursor[:-1]}"),
        (lotus, f"cards?cursor=x{cursor}"),
        (lotus, f"cards?cursor={forged}"),
        (lotus, "cards?cursor="),
        (lotus, "cards?cursor=%00"),
        (lotus, "cards?cursor=é"),
    ):
        answer = asker_.get(query)
        assert (answer.status_code, answer.json()["code"]) == (400, "CursorNotValid"), query


def test_another_key_of_the_merchant_goes_on_with_the_cursor(lotus, five):
    cursor = lotus.get("cards?limit=4").json()["next_cursor"]
    assert ids(asker(lotus.merchant).get(f"cards?cursor={cursor}")) == five[4:]


def queries(lotus, path: str) -> int:
    with CaptureQueriesContext(connection) as captured:
        assert lotus.get(path).status_code == 200
    return len(captured)


# The key, the rows, and what hangs on them.
MOST_QUERIES = {"programs": 3, "cards": 5, "transactions": 4, "policies": 3, "claims": 2}


@pytest.mark.parametrize("path", MOST_QUERIES)
def test_a_list_asks_the_database_as_often_for_many_rows_as_for_one(lotus, path):
    def more() -> None:
        order = {
            "program": public_id("prg", cards.program(Kind.BONUS, merchant=lotus.merchant, card_limit=30_000).pk),
            "prepaid_amount": 100_000,
            "holder": {"name": "王小明", "phone": "13912342893"},
            "reference": cards.reference("PUR"),
            "payment_method": "WECHAT",
        }
        card = lotus.post("cards", order).json()["id"]
        body = {"list_amount": 50_000, "reference": cards.reference("ORDER")}
        payment = lotus.post(f"cards/{card}/payments", body).json()["id"]
        lotus.post(f"transactions/{payment}/refunds", {"amount": 40_000, "reference": cards.reference("BACK")})

    more()
    assert queries(lotus, path) <= MOST_QUERIES[path]
    for _n in range(4):
        more()
    assert queries(lotus, path) <= MOST_QUERIES[path]


def test_a_payment_asks_nothing_besides_its_key_and_the_ledger(lotus):
    card = public_id("crd", cards.opened(cards.program(Kind.BONUS, merchant=lotus.merchant)).pk)
    lotus.get("cards")  # notes the key's use, once a minute
    with CaptureQueriesContext(connection) as captured:
        answer = lotus.post(f"cards/{card}/payments", {"list_amount": 1, "reference": "ORDER-1"})
    assert answer.status_code == 201
    # Those two are prepared, and on the driver's own cursor nothing captures them.
    assert len(captured) == 0
