"""Who gets in: password, second factor, a locked door after wrong ones, and sessions that end."""

import base64
import os
import re
import subprocess
import sys
from datetime import timedelta
from typing import Any

import pytest
from axes.models import AccessAttempt
from django.contrib.auth.models import Group, User
from django.db.models import F
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django_otp.oath import TOTP

from config import roles, signing_in
from config.models import SECOND_FACTORS, Act, Authenticator, RecoveryCode
from tests.admin.conftest import person, signed_in
from tests.admin.test_audit import deeds

pytestmark = pytest.mark.django_db(databases=["default", "owner"])

LOGIN, CODE, FACTOR, INDEX = (
    reverse(f"admin:{name}") for name in ("login", "second_step", "second_factor", "index")
)  # fmt: skip


@pytest.fixture
def required(settings: Any) -> None:
    settings.SECOND_FACTOR = "required"


def code_of(user: User, *, confirmed: bool = True, steps: int = 0) -> str:
    """What the person's app shows now, or some steps earlier or later."""
    factor = Authenticator.objects.get(user=user, confirmed=confirmed)
    totp = TOTP(bytes.fromhex(factor.secret()))
    totp.time = timezone.now().timestamp() + steps * Authenticator.STEP
    return f"{totp.token():06d}"


def give_factor(user: User) -> list[str]:
    """A factor that is set up; its recovery codes."""
    new = signing_in.candidate(user)
    Authenticator.objects.filter(pk=new.pk).update(confirmed=True)
    return signing_in.new_recovery_codes(user)


def password(browser: Client, name: str = "clerk", word: str = "secret", **rest: Any) -> Any:
    return browser.post(LOGIN, {"username": name, "password": word}, **rest)


def is_in(browser: Client) -> bool:
    return browser.get(INDEX).status_code == 200


def verbs() -> list[str]:
    return list(deeds().order_by("seq").values_list("verb", flat=True))


# Where it is offered: a demonstration ----------------------------------------------------------------------------


def test_where_it_is_offered_a_password_alone_lets_in_in_one_step_and_every_page_says_so(client: Client) -> None:
    person("clerk")
    assert "A demonstration: its people sign in with a password alone." in client.get(LOGIN).content.decode()
    answer = password(client)
    assert (answer.status_code, answer.headers["Location"]) == (302, INDEX)
    assert "A demonstration: its people sign in with a password alone." in client.get(INDEX).content.decode()
    assert verbs() == ["sign_in"]


def test_where_it_is_offered_whoever_set_one_up_is_asked_for_it(client: Client) -> None:
    user = person("clerk")
    password(client)
    page = client.get(FACTOR).content.decode()
    assert "<svg" in page
    shown = client.post(FACTOR, {"code": code_of(user, confirmed=False)}).content.decode()
    assert len(re.findall(r'class="secret">\w{5}-\w{5}<', shown)) == 10
    assert is_in(client)
    client.post(reverse("admin:logout"))
    assert password(client).headers["Location"] == CODE
    assert not is_in(client)


SECRETS = (
    "SECRET_KEY CARD_NUMBER_KEYS COUPON_CODE_KEYS INSURER_KEYS POINTS_SYSTEM_KEYS SECOND_FACTOR_KEYS API_KEY_PEPPER"
)  # fmt: skip


def set_by(**environment: str) -> list[str]:
    """The settings that a process started with this environment works by."""
    names = "SECOND_FACTOR SESSION_COOKIE_NAME SESSION_COOKIE_SECURE CSRF_COOKIE_SECURE SESSION_COOKIE_HTTPONLY"
    script = f"from django.conf import settings; print(*(getattr(settings, name) for name in '{names}'.split()))"
    given = {
        "DJANGO_SETTINGS_MODULE": "config.settings", "PATH": os.environ["PATH"],
        "DATABASE_URL": "postgres://nobody@127.0.0.1:1/x", "REDIS_URL": "redis://x",
        "INSURER_URL": "http://x/", "POINTS_SYSTEM_URL": "http://x/", "VAR_DIR": os.environ.get("VAR_DIR", "var"),
    }  # fmt: skip
    made = {name: base64.b64encode(os.urandom(32)).decode() for name in SECRETS.split()}
    done = subprocess.run(
        [sys.executable, "-c", script], env={**given, **made, **environment}, capture_output=True, text=True
    )
    return done.stdout.split() or [done.stderr.strip().splitlines()[-1]]


def test_production_requires_it_and_a_demonstration_offers_it() -> None:
    assert set_by()[0] == "required"
    assert set_by(DEMO_SECRETS="1")[0] == "offered"
    assert set_by(SECOND_FACTOR="offered")[0] == "offered"
    assert set_by(DEMO_SECRETS="1", SECOND_FACTOR="required")[0] == "required"
    assert "SECOND_FACTOR is required or offered" in set_by(SECOND_FACTOR="no")[0]
    assert "SECOND_FACTOR_KEYS is not set" in set_by(SECOND_FACTOR_KEYS="")[0]


def test_over_https_the_session_goes_nowhere_else() -> None:
    assert set_by(HTTPS="1")[1:] == ["__Host-sessionid", "True", "True", "True"]


# Where it is required: production --------------------------------------------------------------------------------


@pytest.mark.parametrize("role", roles.ROLES)
def test_every_role_that_may_do_more_than_look_needs_it(required: None, client: Client, role: str) -> None:
    user = person(role)
    answer = password(client, user.username)
    if role == "auditor":
        assert is_in(client)
    else:
        assert answer.headers["Location"] == FACTOR
        assert not is_in(client)
    assert "A demonstration" not in client.get(LOGIN, follow=True).content.decode()


def test_the_first_sign_in_sets_it_up(required: None, client: Client) -> None:
    user = person("clerk")
    wanted = reverse("admin:prepaid_card_changelist")
    client.post(f"{LOGIN}?next={wanted}", {"username": "clerk", "password": "secret"})
    before = client.session.session_key
    page = client.get(FACTOR)
    assert "no-store" in page.headers["Cache-Control"]
    text = page.content.decode()
    secret = re.findall(r'class="secret">([A-Z2-7 ]+)<', text)[0].replace(" ", "")
    assert secret.encode().isalnum()
    assert len(secret) == 32
    wrong = client.post(FACTOR, {"code": "000000"}).content.decode()
    assert "This code is not right" in wrong
    assert not is_in(client)
    Authenticator.objects.update(throttling_failure_count=0)
    shown = client.post(FACTOR, {"code": code_of(user, confirmed=False)})
    assert "no-store" in shown.headers["Cache-Control"]
    assert f'href="{wanted}"' in shown.content.decode()
    assert is_in(client)
    assert client.session.session_key != before
    assert verbs() == ["set_up_factor", "sign_in"]
    # Neither the secret nor a code stands anywhere as it is.
    kept = Authenticator.objects.get()
    assert bytes(kept.secret_sealed).find(bytes.fromhex(kept.secret())) == -1
    codes = re.findall(r'class="secret">(\w{5})-(\w{5})<', shown.content.decode())
    assert not RecoveryCode.objects.filter(code_hash__in=["".join(code) for code in codes]).exists()
    assert "secret" not in client.get(FACTOR).content.decode()


def test_a_code_counts_once(required: None) -> None:
    user = person("clerk")
    give_factor(user)
    code = code_of(user)
    first, second = Client(), Client()
    for browser in (first, second):
        password(browser)
    assert first.post(CODE, {"code": code}).headers["Location"] == INDEX
    assert is_in(first)
    assert "used already" in second.post(CODE, {"code": code}).content.decode()
    assert not is_in(second)


def test_a_recovery_code_counts_once_and_the_old_ones_are_void_after_new_ones(required: None) -> None:
    user = person("clerk")
    codes = give_factor(user)
    for code, opens in ((codes[0], True), (codes[0], False), (codes[1].lower().replace("-", " "), True)):
        Authenticator.objects.update(throttling_failure_count=0)
        browser = Client()
        password(browser)
        browser.post(CODE, {"code": code})
        assert is_in(browser) == opens
    assert RecoveryCode.objects.filter(used_at=None).count() == 8
    browser.post(FACTOR, {"code": codes[2]})
    assert RecoveryCode.objects.filter(used_at=None).count() == 10
    with pytest.raises(signing_in.WrongCode):
        signing_in.check_code(user, codes[3])
    assert verbs()[-1] == "make_recovery_codes"


@pytest.mark.parametrize("steps", [-3, 3])
def test_a_code_of_another_time_is_wrong(steps: int) -> None:
    user = person("clerk")
    give_factor(user)
    with pytest.raises(signing_in.WrongCode):
        signing_in.check_code(user, code_of(user, steps=steps))


def test_wrong_codes_have_to_wait_twice_as_long_each_time() -> None:
    user = person("clerk")
    give_factor(user)
    with pytest.raises(signing_in.WrongCode):
        signing_in.check_code(user, "000000")
    with pytest.raises(signing_in.TooEarly) as early:
        signing_in.check_code(user, code_of(user))
    assert early.value.facts["seconds"] == 1
    wrong_at = timezone.now() - timedelta(seconds=2)
    Authenticator.objects.update(throttling_failure_count=5, throttling_failure_timestamp=wrong_at)
    with pytest.raises(signing_in.TooEarly) as early:
        signing_in.check_code(user, code_of(user))
    assert early.value.facts["seconds"] == 14
    Authenticator.objects.update(throttling_failure_timestamp=timezone.now() - timedelta(seconds=17))
    signing_in.check_code(user, code_of(user))


def test_a_password_alone_cannot_put_another_factor_in_its_place(required: None, client: Client) -> None:
    user = person("clerk")
    give_factor(user)
    password(client)
    for address in (FACTOR, f"{FACTOR}?anew"):
        assert client.get(address).headers["Location"] == CODE
        assert client.post(address, {"code": "000000"}).headers["Location"] == CODE
    assert Authenticator.objects.count() == 1


def test_a_move_to_another_telephone_needs_the_old_one(required: None, client: Client) -> None:
    user = person("clerk")
    codes = give_factor(user)
    old = Authenticator.objects.get()
    password(client)
    client.post(CODE, {"code": codes[0]})
    client.get(f"{FACTOR}?anew")
    new = {"code": code_of(user, confirmed=False)}
    assert "not right" in client.post(f"{FACTOR}?anew", {**new, "current": "AAAAAAAAAA"}).content.decode()
    assert Authenticator.objects.get(confirmed=True) == old
    Authenticator.objects.update(throttling_failure_count=0)
    client.post(f"{FACTOR}?anew", {**new, "current": codes[1]})
    assert Authenticator.objects.get().pk != old.pk
    assert is_in(client)


# No way around ---------------------------------------------------------------------------------------------------


def test_a_session_without_the_factor_opens_no_page(required: None) -> None:
    user = person("clerk")
    browser = signed_in(user)  # as another way of signing in would leave it
    for name in ("index", "prepaid_card_changelist", "password_change", "jsi18n"):
        answer = browser.get(reverse(f"admin:{name}"))
        assert answer.status_code == 302, name
        assert answer.headers["Location"].startswith(LOGIN), name
    assert browser.get(FACTOR).headers["Location"] == LOGIN


def test_nobody_gets_to_the_second_step_without_the_first(required: None, client: Client) -> None:
    user = person("clerk")
    give_factor(user)
    assert client.get(CODE).headers["Location"] == LOGIN
    password(client)
    assert client.get(CODE).status_code == 200
    user.set_password("another")
    user.save()
    assert client.post(CODE, {"code": code_of(user)}).headers["Location"] == LOGIN
    password(client, word="another")
    session = client.session
    session[signing_in.COMING] = {**session[signing_in.COMING], "at": timezone.now().timestamp() - 601}
    session.save()
    assert client.get(CODE).headers["Location"] == LOGIN


def test_it_leads_nowhere_else_but_home(client: Client) -> None:
    person("clerk")
    answer = client.post(f"{LOGIN}?next=https://evil.example/", {"username": "clerk", "password": "secret"})
    assert answer.headers["Location"] == INDEX


# The locked door -------------------------------------------------------------------------------------------------


def test_nothing_tells_whether_somebody_exists(client: Client) -> None:
    person("clerk")
    User.objects.create_user("gone", password="secret", is_staff=True, is_active=False)
    User.objects.create_user("customer", password="secret")

    def said(name: str, word: str) -> tuple[int, str]:
        page = password(client, name, word)
        return page.status_code, re.sub(r"value=\"[^\"]*\"|csrf[^>]*", "", page.content.decode())

    answers = {said("clerk", "wrong"), said("nobody", "wrong"), said("gone", "secret"), said("customer", "secret")}
    assert len(answers) == 1
    assert answers.pop()[0] == 200


@pytest.mark.parametrize("name", ["clerk", "nobody"])
def test_a_name_is_locked_after_ten_wrong_passwords_whoever_tries_and_opens_again(client: Client, name: str) -> None:
    user = person("clerk")
    for n in range(9):
        assert password(client, name, "wrong", REMOTE_ADDR=f"192.0.2.{n}").status_code == 200
    locked = password(client, name, "wrong", REMOTE_ADDR="192.0.2.9")
    assert (locked.status_code, locked.headers["Retry-After"]) == (429, "900")
    assert "until 15 minutes after the last of them" in locked.content.decode()
    assert password(client, name, "secret", REMOTE_ADDR="192.0.2.10").status_code == 429
    assert not is_in(client)
    assert verbs() == ["sign_in_failed"] * 9 + ["locked_out"]
    assert set(deeds().values_list("who", flat=True)) == {name if name == user.username else ""}
    a_while_ago(minutes=16)
    assert password(client).status_code == 302


def a_while_ago(*, minutes: int) -> None:
    AccessAttempt.objects.update(attempt_time=F("attempt_time") - timedelta(minutes=minutes))


def test_an_address_is_locked_after_thirty_wrong_ones_and_no_other(client: Client) -> None:
    person("clerk")
    for n in range(29):
        assert password(client, f"name{n}", "wrong", REMOTE_ADDR="192.0.2.1").status_code == 200
    assert password(client, "name29", "wrong", REMOTE_ADDR="192.0.2.1").status_code == 429
    assert password(client, REMOTE_ADDR="192.0.2.1").status_code == 429
    assert password(client, REMOTE_ADDR="192.0.2.2").status_code == 302


def test_wrong_codes_lock_the_door_too(required: None, client: Client) -> None:
    user = person("clerk")
    give_factor(user)
    password(client)
    for n in range(10):
        Authenticator.objects.update(throttling_failure_count=0)
        answer = client.post(CODE, {"code": "000000"})
        assert answer.status_code == (429 if n == 9 else 200)
    Authenticator.objects.update(throttling_failure_count=0)
    assert client.post(CODE, {"code": code_of(user)}).status_code == 429
    assert not is_in(client)
    assert verbs() == ["sign_in_failed"] * 9 + ["locked_out"]


def test_what_is_not_a_name_is_not_kept(client: Client) -> None:
    password(client, "my-password-in-the-wrong-field", "x")
    act = Act.objects.get()
    assert (act.verb, act.who, act.label, act.address) == ("sign_in_failed", "", "", "127.0.0.1")


# Sessions end ----------------------------------------------------------------------------------------------------


def aged(browser: Client, **by: float) -> None:
    """Let time pass for a session: ``began`` or ``seen`` so many minutes ago."""
    session = browser.session
    now = timezone.now().timestamp()
    session["staff"] = {**session["staff"], **{name: now - 60 * minutes for name, minutes in by.items()}}
    session.save()


@pytest.mark.parametrize(("began", "seen", "stays"), [(31, 29, True), (31, 31, False), (719, 1, True), (721, 1, False)])
def test_a_session_ends_unused_or_after_a_working_day(client: Client, began: int, seen: int, stays: bool) -> None:
    person("clerk")
    password(client)
    aged(client, began=began, seen=seen)
    assert is_in(client) == stays
    assert is_in(client) == stays
    assert verbs() == ["sign_in"] + ([] if stays else ["session_ended"])


def test_working_keeps_it_open(client: Client) -> None:
    person("clerk")
    password(client)
    for _n in range(4):
        aged(client, seen=20)
        assert is_in(client)


def test_a_session_gets_another_key_at_sign_in(client: Client) -> None:
    person("clerk")
    client.get(LOGIN)
    session = client.session
    session["planted"] = True
    session.save()
    client.cookies["sessionid"] = before = session.session_key
    password(client)
    assert client.session.session_key != before
    stranger = Client()
    stranger.cookies["sessionid"] = before
    assert not is_in(stranger)


def test_it_ends_at_once_when_the_password_or_the_person_changes(client: Client) -> None:
    user = person("clerk")
    password(client)
    assert is_in(client)
    user.set_password("another")
    user.save()
    assert not is_in(client)
    password(client, word="another")
    assert is_in(client)
    User.objects.update(is_active=False)
    assert not is_in(client)


def test_it_ends_at_once_when_the_role_changes(client: Client) -> None:
    user = person("clerk")
    password(client)
    assert is_in(client)
    user.groups.set([Group.objects.get(name="approver")])
    assert not is_in(client)
    password(client)
    assert is_in(client)
    assert Act.objects.get(verb="session_ended").reason == "the person's rights or second factor changed"


def test_leaving_and_a_password_of_ones_own_are_written_down(client: Client) -> None:
    person("clerk")
    password(client)
    new = "a long enough sentence 7"
    form = {"old_password": "secret", "new_password1": new, "new_password2": new}
    assert client.post(reverse("admin:password_change"), form).status_code == 302
    assert is_in(client)
    client.post(reverse("admin:logout"))
    assert not is_in(client)
    assert verbs() == ["sign_in", "change_own_password", "sign_out"]


# A lost factor ---------------------------------------------------------------------------------------------------


def test_an_administrator_takes_a_lost_factor_away_but_not_their_own(required: None) -> None:
    clerk, chief = person("clerk"), person("administrator")
    give_factor(clerk)
    codes = give_factor(chief)
    lost, browser = Client(), Client()
    password(lost)
    lost.post(CODE, {"code": code_of(clerk)})
    assert is_in(lost)
    password(browser, "administrator")
    browser.post(CODE, {"code": codes[0]})
    own = reverse("admin:auth_user_take_factor_away", args=[chief.pk])
    browser.post(own, {"reason": "x"})
    assert Authenticator.objects.filter(user=chief).exists()

    browser.post(reverse("admin:auth_user_take_factor_away", args=[clerk.pk]), {"reason": "telephone stolen"})
    assert not Authenticator.objects.filter(user=clerk).exists()
    assert not RecoveryCode.objects.filter(user=clerk).exists()
    assert not is_in(lost)
    act = Act.objects.get(verb="take_factor_away", outcome="DONE")
    assert (act.who, act.label, act.reason) == ("administrator", "clerk", "telephone stolen")
    assert password(lost).headers["Location"] == FACTOR

    # The same person does not set the password as well: both together would be signing in as somebody else.
    new = {"password1": "a long enough sentence 7", "password2": "a long enough sentence 7"}
    browser.post(reverse("admin:auth_user_password_change", args=[clerk.pk]), new)
    clerk.refresh_from_db()
    assert clerk.check_password("secret")


def test_whoever_set_the_password_does_not_take_the_factor_away_too(root: Client) -> None:
    clerk = person("clerk")
    give_factor(clerk)
    new = {"password1": "a long enough sentence 7", "password2": "a long enough sentence 7"}
    root.post(reverse("admin:auth_user_password_change", args=[clerk.pk]), new)
    clerk.refresh_from_db()
    assert clerk.check_password(new["password1"])
    take = reverse("admin:auth_user_take_factor_away", args=[clerk.pk])
    root.post(take, {"reason": "lost"})
    assert Authenticator.objects.filter(user=clerk).exists()
    signed_in(person("administrator")).post(take, {"reason": "lost"})
    assert not Authenticator.objects.filter(user=clerk).exists()


def test_only_whoever_may_takes_a_factor_away() -> None:
    clerk = person("clerk")
    give_factor(clerk)
    for role in ("approver", "auditor"):
        take = reverse("admin:auth_user_take_factor_away", args=[clerk.pk])
        assert signed_in(person(role)).post(take, {"reason": "x"}).status_code == 403
    assert Authenticator.objects.exists()


def test_a_copy_of_the_database_signs_nobody_in() -> None:
    user = person("clerk")
    codes = give_factor(user)
    kept = Authenticator.objects.get()
    assert len(SECOND_FACTORS.unseal(kept.secret_sealed)) == 40
    assert kept.secret().encode() not in bytes(kept.secret_sealed)
    assert not {code.replace("-", "") for code in codes} & set(RecoveryCode.objects.values_list("code_hash", flat=True))
