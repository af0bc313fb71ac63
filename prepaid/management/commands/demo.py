"""Sample data and people for a demonstration."""

import csv
import json
import secrets
import tempfile
from argparse import ArgumentParser
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from django.conf import settings
from django.contrib.auth.hashers import check_password
from django.contrib.auth.models import Group, User
from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.utils import timezone

from config import roles, supervisor
from config.errors import Refused
from issuing import keys
from issuing.models import Merchant, MerchantKey, MerchantManager
from points import accounts, parameters
from points.models import CouponProduct, ExchangeRatio, PointsAccount
from prepaid import processing

SAMPLE = Path(__file__).resolve().parents[2] / "sample"
SMALL = 200
"""Purchases of the small sample; their payments come with them."""

PEOPLE = {
    "clerk": "clerk",
    "adjuster": "adjuster",
    "approver": "approver",
    "senior": "senior approver",
    "partners": "partner desk",
    "manager": "merchant manager",
    "auditor": "auditor",
    "admin": "administrator",
}
"""Who can sign in, and as what: the group of that name says what they may do."""

MANAGED = "BAKE01"
"""Whose rows the merchant manager sees: this merchant's and its test twin's."""

CUSTOMERS = 5
"""So many of the bank's sample accounts can be signed in with on the customers' page."""
ACCOUNTS = settings.BASE_DIR / "points" / "system" / "sample" / "points_accounts.csv"
"""The accounts that the bank brings in itself; we read nothing of it but whose customers we may expect."""


class Offer(NamedTuple):
    """What points buy in the demonstration; the face value in fen."""

    merchant: str
    code: str
    name: str
    name_zh: str
    face_value: int
    ratio: str
    stock: int | None = None


OFFERS = (
    Offer("BAKE01", "BAKE20", "Bakery coupon for 20", "烘焙券 20 元", 2_000, "1600"),
    Offer("BAKE01", "BAKE5", "Bakery coupon for 5", "烘焙券 5 元", 500, "333.33", stock=500),
    Offer("BOOK01", "BOOK50", "Book coupon for 50", "图书券 50 元", 5_000, "4000", stock=1_000),
)


class Command(BaseCommand):
    help = (
        "Load the sample data and make one member of staff for each role, an API key for each merchant, coupons that "
        "points buy and customers who hold points; who signs in with what is told in var/demo.json. It can be run "
        "again: what is there is kept."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--size", choices=["small", "full"], default="full")

    def handle(self, *args: Any, **options: Any) -> None:
        told: dict[str, Any] = json.loads(supervisor.DEMO.read_text()) if supervisor.DEMO.exists() else {}
        if _is_loaded(told, size=options["size"]):
            return
        roles.apply()
        told["staff"] = _staff({person["username"]: person["password"] for person in told.get("staff", [])})
        with tempfile.TemporaryDirectory() as folder:
            if options["size"] == "small":
                _cut(Path(folder))
            call_command("ingest", folder if options["size"] == "small" else str(SAMPLE))
        _offer_coupons()
        told["merchants"] = _merchants({one["code"]: one for one in told.get("merchants", [])})
        for merchant in Merchant.objects.filter(code__startswith=MANAGED):
            MerchantManager.objects.get_or_create(user=User.objects.get(username="manager"), merchant=merchant)
        told["customers"] = _customers({one["account"]: one["password"] for one in told.get("customers", [])})
        told["size"] = options["size"]
        supervisor.write_demo(told)


def _is_loaded(told: dict[str, Any], *, size: str) -> bool:
    """Whether all of it was loaded into this very database before: a start then need not go through it again."""
    usernames = [person["username"] for person in told.get("staff", [])]
    codes = [merchant["code"] for merchant in told.get("merchants", [])]
    return bool(
        told.get("size") == size
        and User.objects.filter(username__in=usernames).count() == len(PEOPLE)
        and codes
        and Merchant.objects.filter(code__in=codes, test_twin__isnull=False).count() == len(codes)
        and len(told.get("customers", [])) == CUSTOMERS
        and PointsAccount.objects.exclude(password="").count() >= CUSTOMERS
        and CouponProduct.objects.filter(code__in=[offer.code for offer in OFFERS]).count() == len(OFFERS)
    )


def _staff(known: dict[str, str]) -> list[dict[str, str]]:
    """One person for each role. A password that still opens the door is kept, otherwise there is a new one."""
    staff = []
    for username, role in PEOPLE.items():
        person, _made = User.objects.get_or_create(username=username)
        password = known.get(username, "")
        if not person.check_password(password):
            password = secrets.token_urlsafe(9)
            person.set_password(password)
        person.is_staff, person.is_superuser, person.is_active = True, role == "administrator", True
        person.save()
        person.groups.set([Group.objects.get(name=role)])
        staff.append({"username": username, "password": password, "role": role})
    return staff


def _merchants(known: dict[str, dict[str, str]]) -> list[dict[str, str]]:
    """Two API keys for each merchant of the sample: ``api_key`` for the sample's cards, which are live cards of a
    demonstration, and ``test_api_key`` for its test twin, which has none yet."""
    now = timezone.now()
    told = []
    with (SAMPLE / "merchants.csv").open(encoding="utf-8") as file:
        codes = [line.split(",", 1)[0] for line in islice(file, 1, None)]
    for merchant in Merchant.objects.filter(code__in=codes).order_by("code"):
        texts = known.get(merchant.code, {})
        twin = processing.make_test_twin(merchant=merchant, now=now)
        told.append(
            {
                "code": merchant.code,
                "api_key": _key(merchant, texts.get("api_key", "")),
                "test_api_key": _key(twin, texts.get("test_api_key", "")),
            }
        )
    return told


def _key(merchant: Merchant, text: str) -> str:
    """The merchant's key of that text if it is one, otherwise a new one: what is kept of a key is a hash."""
    now = timezone.now()
    try:
        key = keys.find(text, now=now)
    except Refused:
        key = None
    if key is None or key.merchant_id != merchant.pk:
        return keys.make(merchant=merchant, name="demonstration", now=now)[1]
    # The key of an earlier demonstration may do what is there to do now.
    MerchantKey.objects.filter(pk=key.pk).update(scopes=list(keys.SCOPES))
    return text


def _offer_coupons() -> None:
    """Coupon products, each with a ratio that one person proposed and another approved.

    The clock tells the points system of the ratios within seconds; from then on points are taken by them.
    """
    now = timezone.now()
    maker, approver = (User.objects.get(username=name) for name in ("partners", "approver"))
    for offer in OFFERS:
        product, _made = CouponProduct.objects.get_or_create(
            code=offer.code,
            defaults={
                "merchant": Merchant.objects.get(code=offer.merchant),
                "name": offer.name,
                "name_zh": offer.name_zh,
                "face_value": offer.face_value,
                "valid_days": 90,
                "stock": offer.stock,
                "most_per_order": 20,
            },
        )
        if not product.ratios.exists():
            ratio = parameters.propose(
                product=product,
                ratio=Decimal(offer.ratio),
                rounding=ExchangeRatio.Rounding.CEIL,
                valid_from_at=now,
                valid_until_at=None,
                by=maker,
                now=now,
            )
            parameters.approve(ratio=ratio, by=approver, now=now)


def _customers(known: dict[str, str]) -> list[dict[str, str]]:
    """The first accounts of the bank's sample, each with a password; one that still opens the door is kept."""
    with ACCOUNTS.open(encoding="utf-8") as file:
        numbers = list(dict.fromkeys(row["account"] for row in islice(csv.DictReader(file), 10 * CUSTOMERS)))
    told = []
    for number in numbers[:CUSTOMERS]:
        account = accounts.known(number=number, now=timezone.now())
        password = known.get(number, "")
        if not (password and check_password(password, account.password)):
            password = secrets.token_urlsafe(9)
            accounts.set_password(account=account, password=password)
        told.append({"account": number, "password": password})
    return told


def _cut(folder: Path) -> None:
    """The sample's first purchases with their payments, as a folder of its own."""
    for name in ("merchants.csv", "programs.csv", "insurance.csv"):
        (folder / name).write_bytes((SAMPLE / name).read_bytes())
    with (SAMPLE / "purchases.csv").open(encoding="utf-8") as file:
        purchases = list(islice(file, SMALL + 1))
    (folder / "purchases.csv").write_text("".join(purchases), encoding="utf-8")
    kept = {line.split(",", 1)[0] for line in purchases[1:]}
    with (SAMPLE / "payments.csv").open(encoding="utf-8") as file:
        payments = [line for number, line in enumerate(file) if not number or line.split(",", 2)[1] in kept]
    (folder / "payments.csv").write_text("".join(payments), encoding="utf-8")
