"""A merchant with something of everything, so that there is an answer to every question of the contract."""

from datetime import timedelta
from typing import Any, NamedTuple

from django.utils import timezone

from config.ids import public_id
from issuing import numbering, webhooks
from issuing.models import Kind
from points import bank, coupons
from points.models import Coupon, CouponProduct, ExchangeRatio
from prepaid.models import NetworkAccount
from tests import cards, failures
from tests import points_world as world
from tests.api.asking import Asker, asker, insured
from tests.partners import PointsSystem

ACCOUNT = "6225000026000000"


class World(NamedTuple):
    """``known`` are ids by prefix, and what else examples name; the claim and ``claimable``, a card, belong to a
    merchant who has failed."""

    asker: Asker
    known: dict[str, str]
    failed: Asker
    claimable: str


def open_bank(points_system: PointsSystem, settings: Any) -> None:
    """Have the points system know the account of the examples, and the ratios."""
    settings.POINTS_SYSTEM_URL = f"{points_system.url}/points/"
    settings.POINTS_SYSTEM_KEYS = points_system.keys
    points_system.has_account((20_000, "2031-12-31"), number=ACCOUNT)
    ExchangeRatio.objects.update(advised_at=None, due_at=cards.OPENED)
    bank.sweep(now=timezone.now(), seconds=5)


def build() -> World:
    made = asker(insured())
    programs = {
        Kind.BONUS: cards.program(Kind.BONUS, merchant=made.merchant, tiers=[(100_000, 20_000)]),
        Kind.DISCOUNT: cards.program(Kind.DISCOUNT, merchant=made.merchant),
        Kind.TIMES: cards.program(Kind.TIMES, merchant=made.merchant),
        Kind.ENTITLEMENT: cards.program(Kind.ENTITLEMENT, merchant=made.merchant, price=99_900),
    }
    card = cards.opened(programs[Kind.BONUS], 2_000_000, gift=20_000)
    for kind, price in ((Kind.DISCOUNT, 100_000), (Kind.TIMES, 100_000), (Kind.ENTITLEMENT, 99_900)):
        cards.opened(programs[kind], price)
    NetworkAccount.objects.update(phone="13912342893")  # without it nobody may top a named card up
    payment = cards.paid(card, 20_000)
    cards.paid(card, 30_000)
    policy = failures.covered(card)
    tea: CouponProduct = world.product(merchant=made.merchant, stock=5_000, most_per_order=20)
    world.ratio(tea, "333.33")
    exchange = world.issued(tea, 3)
    first = Coupon.objects.filter(exchange=exchange).order_by("ordinal")[0]
    # Its code is in the answer that issued it only, so a second one is given out for the example to redeem.
    [code] = coupons.read_codes(
        coupons=[Coupon.objects.filter(exchange=exchange).order_by("ordinal")[1]],
        reason="an example",
        by="test",
        now=timezone.now(),
    )
    Coupon.objects.update(expires_at=timezone.now() + timedelta(days=90))
    hook, _secret = webhooks.add(
        merchant=made.merchant, url="https://93.184.216.35/", types=[], is_live=True, by="test", now=timezone.now()
    )
    told = webhooks.ping(endpoint=hook, now=timezone.now())
    told.move("DELIVERED", due_at=None, delivered_at=timezone.now(), attempts=1)
    unlucky = asker(insured())
    program = cards.program(Kind.BONUS, merchant=unlucky.merchant)
    claimed, lost = cards.opened(program), cards.opened(program)
    for each in (claimed, lost):
        failures.covered(each)
    failures.failed(unlucky.merchant)
    claim = failures.assessed(claimed)
    known = {
        "prg": public_id("prg", programs[Kind.BONUS].pk),
        "crd": public_id("crd", card.pk),
        "net": public_id("net", card.network_account_id),
        "txn": public_id("txn", payment.id),
        "pol": public_id("pol", policy.pk),
        "cpr": public_id("cpr", tea.pk),
        "exc": public_id("exc", exchange.pk),
        "cpn": public_id("cpn", first.pk),
        "evt": public_id("evt", told.event_id),
        "whe": public_id("whe", hook.pk),
        "whd": public_id("whd", told.pk),
        "clm": public_id("clm", claim.pk),
        "number": numbering.unseal(bytes(card.number_sealed)),
        "code": code,
    }
    return World(made, known, unlucky, public_id("crd", lost.pk))
