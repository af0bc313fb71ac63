"""django-hordak's way to pay: lock the account, read its balance, transfer. Runs in a process of its own.

    python hordak_reference.py postgres://…

It has its own settings and its own virtual environment, and speaks by lines: a number in makes so many payments,
the seconds they took come out.
"""

import sys
import time

import dj_database_url
import django
from django.conf import settings

# The address may carry options of its own: that of the embedded server names its socket's folder there.
database = dj_database_url.parse(sys.argv[1], conn_max_age=None)
database["OPTIONS"] = {**database.get("OPTIONS", {}), "server_side_binding": True}

settings.configure(
    DATABASES={"default": database},
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "mptt", "djmoney", "hordak"],
    CURRENCIES=["CNY"],
    DEFAULT_CURRENCY="CNY",
    HORDAK_INTERNAL_CURRENCY="CNY",
    HORDAK_CURRENCIES=["CNY"],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    USE_TZ=True,
)
django.setup()

from django.core.management import call_command  # noqa: E402  nothing of Django before its settings
from django.db import transaction  # noqa: E402
from hordak.models import Account, AccountType  # noqa: E402
from moneyed import Money  # noqa: E402

CARDS = 200
PRICE = Money("1.00", "CNY")
OPENING = Money("100000.00", "CNY")


def pay(card_id: int, merchant: Account) -> None:
    """What the payment verb does, in hordak's words."""
    with transaction.atomic():
        card = Account.objects.select_for_update().get(pk=card_id)
        if card.get_balance()["CNY"] < PRICE:
            raise ValueError("not enough on the card")
        merchant.transfer_to(card, PRICE)  # hordak credits the first: income grows, what is owed shrinks


def main() -> None:
    call_command("migrate", verbosity=0)
    merchant = Account.objects.create(name="merchant", code="1", type=AccountType.income, currencies=["CNY"])
    bank = Account.objects.create(name="bank", code="2", type=AccountType.asset, currencies=["CNY"])
    cards = []
    for index in range(CARDS):
        card = Account.objects.create(
            name="card", code=str(1000 + index), type=AccountType.liability, currencies=["CNY"]
        )
        card.transfer_to(bank, OPENING)
        cards.append(card.pk)
    print("ready", flush=True)
    for line in sys.stdin:
        count = int(line)
        start = time.perf_counter()
        for number in range(count):
            pay(cards[number % CARDS], merchant)
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()
