"""Keys: who may ask, for what, until when; how they are kept; and the command that makes them."""

from datetime import timedelta
from io import StringIO
from ipaddress import ip_address

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from config.ids import public_id
from issuing import keys
from issuing.models import Kind, MerchantKey
from prepaid import processing
from tests import cards
from tests.api.asking import Asker, asker, without_id

pytestmark = pytest.mark.django_db


def made(merchant, **facts) -> tuple[MerchantKey, str]:
    return keys.make(merchant=merchant, name="till", now=timezone.now(), **facts)


def test_a_key_says_what_it_is_for_and_is_kept_as_a_hash_only(merchant):
    key, text = made(merchant)
    test_key, test_text = made(processing.make_test_twin(merchant=merchant, now=timezone.now()))
    assert text.startswith("sk_live_")
    assert test_text.startswith("sk_test_")
    assert (key.last4, key.is_test, test_key.is_test) == (text[-4:], False, True)
    with connection.cursor() as cursor:
        cursor.execute("SELECT k::text FROM issuing_merchantkey k")
        rows = " ".join(row for (row,) in cursor.fetchall())
    assert text not in rows
    assert text[8:40] not in rows


def test_a_key_works_until_it_expires_or_is_revoked(merchant):
    now = timezone.now()
    key, text = made(merchant, expires_at=now + timedelta(days=1))
    assert keys.find(text, now=now).pk == key.pk
    with pytest.raises(keys.KeyNotAccepted):
        keys.find(text, now=now + timedelta(days=1))
    assert keys.revoke(key=key, now=now)
    with pytest.raises(keys.KeyNotAccepted):
        keys.find(text, now=now)
    revoked_at = key.revoked_at
    assert not keys.revoke(key=key, now=now + timedelta(hours=1))
    assert key.revoked_at == revoked_at


def test_two_keys_live_side_by_side_while_one_is_replaced(merchant):
    _old, old_text = made(merchant)
    _new, new_text = made(merchant)
    assert asker_with(merchant, old_text).get("programs").status_code == 200
    assert asker_with(merchant, new_text).get("programs").status_code == 200


def asker_with(merchant, text) -> Asker:
    return Asker(merchant, text)


def test_a_key_is_made_only_with_what_there_is(merchant):
    with pytest.raises(keys.ScopeUnknown):
        made(merchant, scopes=["cards:eat"])
    with pytest.raises(keys.ExpiryPassed):
        made(merchant, expires_at=timezone.now())


def test_last_use_is_written_once_a_minute(merchant):
    now = timezone.now()
    key, _text = made(merchant)
    for seconds, worth_it in ((0, True), (59, False), (61, True)):
        at = now + timedelta(seconds=seconds)
        key.refresh_from_db()
        assert keys.is_use_worth_noting(key, now=at) == worth_it
        keys.note_use(key, now=at)
        key.refresh_from_db()
        assert (key.last_used_at == at) == worth_it


def test_last_use_is_written_when_the_answer_is_sent_and_not_before(lotus):
    lotus.get("cards")
    with CaptureQueriesContext(connection) as captured:
        lotus.get("cards")
    key = MerchantKey.objects.get()
    assert key.last_used_at is not None
    assert not any("UPDATE" in query["sql"] for query in captured)
    # Refused is used as well: staff see that somebody still has the key.
    MerchantKey.objects.update(last_used_at=None)
    assert lotus.post("cards", {"x": 1}).status_code == 400
    key.refresh_from_db()
    assert key.last_used_at is not None


# Rotation


def test_a_rotated_key_and_its_successor_are_both_good_until_the_overlap_is_over(merchant):
    now = timezone.now()
    old, old_text = made(merchant, scopes=["cards:read"], allowed_from=["192.0.2.0/24"])
    new, new_text = keys.rotate(key=old, now=now, overlap=timedelta(days=7))
    assert (new.scopes, new.allowed_from, new.name, new.replaces) == (["cards:read"], ["192.0.2.0/24"], "till", old)
    here = ip_address("192.0.2.7")
    almost, over = now + timedelta(days=7, seconds=-1), now + timedelta(days=7)
    assert [keys.find(text, now=almost, address=here).pk for text in (old_text, new_text)] == [old.pk, new.pk]
    assert keys.find(new_text, now=over, address=here).pk == new.pk
    with pytest.raises(keys.KeyNotAccepted):
        keys.find(old_text, now=over, address=here)


def test_a_key_that_ends_sooner_is_not_made_to_last_by_rotating_it(merchant):
    now = timezone.now()
    old, _text = made(merchant, expires_at=now + timedelta(days=1))
    new, _text = keys.rotate(key=old, now=now)
    assert old.expires_at == now + timedelta(days=1)
    assert new.expires_at is None


def test_a_key_is_rotated_once_and_only_while_it_is_good(merchant):
    now = timezone.now()
    old, _text = made(merchant)
    keys.rotate(key=old, now=now)
    ends_at = old.expires_at
    with pytest.raises(keys.KeyReplaced):
        keys.rotate(key=old, now=now, overlap=timedelta(days=1))
    old.refresh_from_db()
    assert old.expires_at == ends_at
    for key in (made(merchant)[0], made(merchant, expires_at=now + timedelta(seconds=1))[0]):
        keys.revoke(key=key, now=now) if key.expires_at is None else None
        with pytest.raises(keys.KeyEnded):
            keys.rotate(key=key, now=now + timedelta(seconds=1))
    assert MerchantKey.objects.count() == 4


# Where from


@pytest.mark.parametrize(
    ("networks", "address", "is_good"),
    [
        (["192.0.2.0/24"], "192.0.2.255", True),
        (["192.0.2.0/24"], "192.0.3.0", False),
        (["192.0.2.0/24"], "::ffff:192.0.2.1", True),
        (["192.0.2.7/32", "2001:db8::/32"], "2001:db8:ffff::1", True),
        (["2001:db8::/32"], "2001:db9::1", False),
        (["2001:db8::/32"], "192.0.2.1", False),
        ([], "192.0.2.1", True),
        (["192.0.2.0/24"], "", False),
    ],
)
def test_a_key_is_good_from_the_networks_it_was_made_for(merchant, networks, address, is_good):
    _key, text = made(merchant, allowed_from=networks)
    program = Asker(merchant, text)
    answer = program.client.get("/api/v1/cards", headers={"Authorization": f"Bearer {text}"}, REMOTE_ADDR=address)
    assert answer.status_code == (200 if is_good else 401)


@pytest.mark.parametrize(
    ("proxies", "told", "is_good"),
    [
        (0, "192.0.2.1", False),  # nobody is trusted: whoever asks may write what he likes
        (1, "192.0.2.1", True),
        (1, "192.0.2.1, 198.51.100.9", False),  # the trusted one was asked by 198.51.100.9, who says the rest
        (2, "192.0.2.1, 198.51.100.9", True),
        (2, "192.0.2.1", False),  # a way around one of the proxies
        (1, "", False),
        (1, "192.0.2.1,", False),
        (1, "unknown", False),
    ],
)
def test_only_so_many_proxies_are_believed(merchant, settings, proxies, told, is_good):
    settings.TRUSTED_PROXIES = proxies
    _key, text = made(merchant, allowed_from=["192.0.2.0/24"])
    headers = {"Authorization": f"Bearer {text}", "X-Forwarded-For": told}
    answer = Asker(merchant, text).client.get("/api/v1/cards", headers=headers, REMOTE_ADDR="203.0.113.1")
    assert answer.status_code == (200 if is_good else 401)


def refused_keys(merchant) -> dict[str, str | None]:
    now = timezone.now()
    revoked, revoked_text = made(merchant)
    keys.revoke(key=revoked, now=now)
    expired, expired_text = made(merchant)
    MerchantKey.objects.filter(pk=expired.pk).update(expires_at=now)
    _key, text = made(merchant)
    _elsewhere, elsewhere_text = made(merchant, allowed_from=["192.0.2.0/24"])
    return {
        "missing": None,
        "empty": "",
        "no scheme": text,
        "another scheme": f"Basic {text}",
        "unknown": f"Bearer sk_test_{'0' * 48}",
        "malformed": "Bearer sk_test_",
        "cut short": f"Bearer {text[:-1]}",
        "in capitals": f"Bearer {text.upper()}",
        "of the other kind": f"Bearer {text.replace('live', 'test')}",
        "brought from elsewhere": f"Bearer {elsewhere_text}",
        "with more behind": f"Bearer {text} x",
        "not ASCII": "Bearer sk_test_é",
        "revoked": f"Bearer {revoked_text}",
        "expired": f"Bearer {expired_text}",
    }


def test_a_key_that_is_not_accepted_gets_one_answer_whatever_is_wrong_with_it(lotus):
    answers = set()
    for why, header in refused_keys(lotus.merchant).items():
        answer = lotus.get("cards", Authorization=header)
        assert answer.status_code == 401, why
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        answers.add(without_id(answer))
    assert len(answers) == 1


READS = ["programs", "cards", "transactions", "policies", "claims", "coupon-products"]
A_CARD = f"cards/crd_{'0' * 32}"
A_TRANSACTION = f"transactions/txn_{'0' * 32}"
WRITES = {
    "cards:read": ["cards/quote", "cards/lookup"],
    "cards:write": [
        "cards",
        *(f"{A_CARD}/{verb}" for verb in ("top-ups", "freeze", "unfreeze", "report-lost", "replace", "close")),
    ],
    "payments:write": [f"{A_CARD}/payments", f"{A_TRANSACTION}/refunds", f"{A_TRANSACTION}/reversals"],
    "claims:write": ["claims"],
    "exchanges:write": ["exchange-quotes", "exchanges", f"exchanges/exc_{'0' * 32}/returns"],
    "coupons:write": ["coupons/redeem"],
    "webhooks:write": ["webhook-endpoints", f"webhook-endpoints/whe_{'0' * 32}/ping"],
}


@pytest.mark.parametrize("scope", keys.SCOPES)
def test_a_key_may_do_what_its_scopes_say_and_nothing_else(merchant, scope):
    program = asker(merchant, scopes=[scope])
    for path in READS:
        answer = program.get(path)
        assert (answer.status_code == 403) == (scope != "cards:read"), path
    for needed, paths in WRITES.items():
        for path in paths:
            answer = program.post(path)
            if needed == scope:
                assert answer.status_code in (400, 404), path
            else:
                assert (answer.status_code, answer.json()["code"]) == (403, "ScopeMissing"), path
                assert needed in answer.json()["detail"]


def test_whoever_is_refused_has_changed_nothing(merchant):
    card = cards.opened(cards.program(Kind.BONUS, merchant=merchant))
    reader = asker(merchant, scopes=["cards:read"])
    answer = reader.post(f"cards/{public_id('crd', card.pk)}/freeze", {"reason": "curiosity"})
    assert answer.status_code == 403
    card.refresh_from_db()
    assert card.state == "ACTIVE"


# The command


def command(*arguments: str) -> str:
    output = StringIO()
    call_command("api_key", *arguments, stdout=output)
    return output.getvalue()


def test_the_command_makes_lists_and_revokes(merchant):
    text = command("make", merchant.code, "--name", "demo", "--scope", "cards:read").strip()
    program = Asker(merchant, text)
    assert program.get("cards").status_code == 200
    assert program.post("cards").status_code == 403
    listed = command("list", merchant.code)
    assert "demo" in listed
    assert text not in listed
    assert command("revoke", merchant.code, "--id", listed.split()[0]).strip() == "revoked"
    assert program.get("cards").status_code == 401
    assert "before" in command("revoke", merchant.code, "--id", listed.split()[0])


def test_the_command_rotates(merchant):
    old = command("make", merchant.code, "--from", "127.0.0.0/8, ::1").strip()
    (row,) = command("list", merchant.code).splitlines()
    assert "127.0.0.0/8, ::1/128" in row
    new = command("rotate", merchant.code, "--id", row.split()[0], "--overlap", "0").strip()
    assert (Asker(merchant, old).get("cards").status_code, Asker(merchant, new).get("cards").status_code) == (401, 200)


@pytest.mark.parametrize(
    "arguments",
    [
        ["make", "NOBODY"],
        ["revoke", "{code}", "--id", "0"],
        ["make", "{code}", "--expires", "2020-01-01T00:00:00+08:00"],
        ["make", "{code}", "--expires", "2090-01-01"],
        ["make", "{code}", "--from", "192.0.2.1/24"],
        ["rotate", "{code}", "--id", "0"],
    ],
)
def test_the_command_refuses_in_words(merchant, arguments):
    with pytest.raises(CommandError):
        command(*(argument.format(code=merchant.code) for argument in arguments))
