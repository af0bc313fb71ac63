"""Keys of the merchant API from the command line."""

from argparse import ArgumentParser
from datetime import datetime, timedelta
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from config.addresses import read_networks
from config.errors import Refused
from issuing import keys
from issuing.models import Merchant, MerchantKey


class Command(BaseCommand):
    help = (
        "Make, list, rotate and revoke a merchant's API keys. A key is printed once, when it is made: sk_test_… for a "
        "test twin (its code ends in -TEST), sk_live_… otherwise."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("action", choices=["make", "list", "rotate", "revoke"])
        parser.add_argument("merchant", help="the merchant's code")
        parser.add_argument("--name", default="command line", help="what the key is for")
        parser.add_argument("--scope", action="append", choices=keys.SCOPES, help="may be repeated; default: all")
        parser.add_argument("--expires", type=datetime.fromisoformat, help="2027-01-01T00:00:00+08:00")
        parser.add_argument(
            "--from", dest="networks", default="", help="where it may be used: 192.0.2.0/24,2001:db8::/32"
        )
        parser.add_argument("--id", help="which key to rotate or revoke, as list shows it")
        parser.add_argument("--overlap", type=int, default=keys.OVERLAP.days, help="days that a rotated key goes on")

    def handle(self, *args: Any, **options: Any) -> None:
        merchant = Merchant.objects.filter(code=options["merchant"]).first()
        if merchant is None:
            raise CommandError(f"There is no merchant {options['merchant']}.")
        try:
            told = getattr(self, f"_{options['action']}")(merchant, timezone.now(), options)
        except Refused as refusal:
            raise CommandError(str(refusal)) from refusal
        except ValidationError as fault:
            raise CommandError(" ".join(fault.messages)) from fault
        self.stdout.write(told)

    def _make(self, merchant: Merchant, now: datetime, options: dict[str, Any]) -> str:
        expires_at = options["expires"]
        if expires_at is not None and expires_at.tzinfo is None:
            raise CommandError("Give --expires with its offset, like 2027-01-01T00:00:00+08:00.")
        _key, text = keys.make(
            merchant=merchant,
            name=options["name"],
            now=now,
            scopes=options["scope"] or keys.SCOPES,
            expires_at=expires_at,
            allowed_from=read_networks(options["networks"]),
        )
        return text

    def _list(self, merchant: Merchant, now: datetime, options: dict[str, Any]) -> str:
        return "\n".join(
            f"{key.pk.hex}  sk_{'test' if merchant.is_test else 'live'}_…{key.last4}  {key.name}  "
            f"{' '.join(key.scopes)}  {', '.join(key.allowed_from) or 'from anywhere'}  "
            + (f"revoked {key.revoked_at:%F %T}" if key.revoked_at else f"expires {key.expires_at or 'never'}")
            + f"  used {key.last_used_at or 'never'}"
            for key in MerchantKey.objects.filter(merchant=merchant).order_by("recorded_at")
        )

    def _rotate(self, merchant: Merchant, now: datetime, options: dict[str, Any]) -> str:
        key = self._named(merchant, options)
        _key, text = keys.rotate(key=key, now=now, overlap=timedelta(days=options["overlap"]))
        return text

    def _revoke(self, merchant: Merchant, now: datetime, options: dict[str, Any]) -> str:
        return "revoked" if keys.revoke(key=self._named(merchant, options), now=now) else "it was revoked before"

    def _named(self, merchant: Merchant, options: dict[str, Any]) -> MerchantKey:
        found = [key for key in merchant.keys.all() if key.pk.hex == options["id"]]
        if not found:
            raise CommandError(f"{merchant.code} has no such key: give --id as list shows it.")
        return found[0]
