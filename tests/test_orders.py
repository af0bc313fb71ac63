"""What may be sold to whom: tested on the order's total, before it is split."""

from datetime import date, timedelta

import pytest

from config.errors import Refused
from issuing import orders
from issuing.models import CardProgram, Kind, Merchant, PaymentMethod, Regulation
from issuing.orders import Holder, Order
from issuing.split import TooManySubCards
from tests import cards

pytestmark = pytest.mark.django_db

LI = Holder("李伟", "19900000002")


def _refusal(program: CardProgram, amount: int, holder: Holder = LI, method: str = PaymentMethod.CARD) -> str | None:
    order = Order(program, amount, holder, "REF", method, cards.OPENED)
    regulation = orders.regulation_for(program.merchant, date(2026, 1, 1))
    try:
        orders.check(order, regulation=regulation, now=cards.NOW)
    except Refused as refusal:
        return refusal.code
    return None


def test_a_named_card_needs_its_holder() -> None:
    program = cards.program(Kind.BONUS)
    assert _refusal(program, 100, Holder()) == "HolderNeeded"
    assert _refusal(program, 100, Holder("李伟", "")) == "HolderNeeded"
    assert _refusal(program, 100) is None


def test_an_unnamed_card_needs_identity_from_ten_thousand_yuan_at_once() -> None:
    program = cards.program(Kind.DISCOUNT, named=False, card_limit=100_000)
    assert _refusal(program, 999_999, Holder()) is None
    assert _refusal(program, 1_000_000, Holder()) == "IdentityNeeded"
    assert _refusal(program, 1_000_000) is None


def test_cash_ends_at_fifty_thousand_yuan_for_individuals_and_five_thousand_for_organisations() -> None:
    program = cards.program(Kind.BONUS)
    firm = LI._replace(is_organisation=True)
    assert _refusal(program, 4_999_999, method=PaymentMethod.CASH) is None
    assert _refusal(program, 5_000_000, method=PaymentMethod.CASH) == "CashNotAllowed"
    assert _refusal(program, 499_999, firm, PaymentMethod.CASH) is None
    assert _refusal(program, 500_000, firm, PaymentMethod.CASH) == "CashNotAllowed"
    assert _refusal(program, 5_000_000, firm, PaymentMethod.BANK_TRANSFER) is None


def test_cards_of_uses_and_of_a_term_have_one_price() -> None:
    assert _refusal(cards.program(Kind.TIMES), 100_001) == "WrongPrice"
    assert _refusal(cards.program(Kind.TIMES), 100_000) is None
    assert _refusal(cards.program(Kind.ENTITLEMENT), 1) == "WrongPrice"


@pytest.mark.parametrize(
    ("holder", "refusal"),
    [
        (Holder('=HYPERLINK("http://example.test")', "19900000001"), "HolderNameNotReadable"),
        (Holder("李\x00伟", "19900000001"), "HolderNameNotReadable"),
        (Holder(" 李伟", "19900000001"), "HolderNameNotReadable"),
        (Holder("李" * 61, "19900000001"), "HolderNameNotReadable"),
        (Holder("李伟", "not-a-phone"), "PhoneNotReadable"),
        (Holder("李伟", "１９９００００００01"), "PhoneNotReadable"),
        (Holder("李伟", "19900000001\n"), "PhoneNotReadable"),
        (Holder("李伟", "19900000001", "11010519491231002Y"), "IdNumberNotReadable"),
        (Holder("李伟", "19900000001", "11010519491231002X"), None),
    ],
)
def test_a_holder_is_readable(holder: Holder, refusal: str | None) -> None:
    assert _refusal(cards.program(Kind.BONUS), 100, holder) == refusal


def test_amounts_and_moments_are_possible() -> None:
    program = cards.program(Kind.BONUS, max_sub_cards=3)
    assert _refusal(program, 0) == "AmountNotPositive"
    assert _refusal(program, -1) == "AmountNotPositive"
    assert _refusal(program, 10**15 + 1) == "AmountTooLarge"
    assert _refusal(program, 1_500_000) is None
    assert _refusal(program, 1_500_001) == TooManySubCards.code
    assert _refusal(program, 100, method="BARTER") == "PaymentMethodUnknown"
    late = Order(program, 100, LI, "REF", PaymentMethod.CARD, cards.NOW + timedelta(seconds=1))
    with pytest.raises(orders.PaidInFuture):
        orders.check(late, regulation=orders.regulation_for(program.merchant, date(2026, 1, 1)), now=cards.NOW)


def test_nothing_is_sold_of_what_has_ended() -> None:
    program = cards.program(Kind.BONUS)
    program.move(CardProgram.State.WITHDRAWN)
    assert _refusal(program, 100) == "ProgramWithdrawn"
    program.merchant.move(Merchant.State.FAILED, failed_at=cards.NOW)
    assert _refusal(program, 100) == "MerchantFailed"


def test_a_citys_own_rule_beats_the_nations_from_its_day_on() -> None:
    program = cards.program(Kind.BONUS, merchant=cards.merchant(city="Shanghai"))
    Regulation.objects.create(region="Shanghai", valid_from_date=date(2026, 1, 2), named_card_limit=200_000)
    limits = [
        orders.limit(program, orders.regulation_for(program.merchant, on_date))
        for on_date in (date(2026, 1, 1), date(2026, 1, 2))
    ]
    assert limits == [500_000, 200_000]


def test_a_named_card_never_expires_and_an_unnamed_one_not_within_three_years() -> None:
    bought = date(2026, 1, 1)
    regulation = Regulation.objects.get(region="")
    named = cards.program(Kind.BONUS)
    short = cards.program(Kind.DISCOUNT, named=False, term_days=365)
    long = cards.program(Kind.DISCOUNT, named=False, term_days=2_000)
    assert orders.expires_on(named, regulation, bought) is None
    assert orders.expires_on(short, regulation, bought) == date(2029, 1, 1)
    assert orders.expires_on(long, regulation, bought) == bought + timedelta(days=2_000)
