"""One code of an authenticator, sent twice at the same moment, lets one in."""

from functools import partial

import pytest
from django.contrib.auth.models import User
from django.utils import timezone
from django_otp.oath import TOTP

from config import signing_in
from config.models import Authenticator
from tests.races import together

pytestmark = pytest.mark.django_db(databases=["default", "owner"], transaction=True)


@pytest.fixture
def clerk() -> User:
    user = User.objects.create_user("clerk", password="secret", is_staff=True)
    signing_in.candidate(user)
    Authenticator.objects.update(confirmed=True)
    return user


def code() -> str:
    totp = TOTP(bytes.fromhex(Authenticator.objects.get().secret()))
    totp.time = timezone.now().timestamp()
    return f"{totp.token():06d}"


def test_the_same_code_at_the_same_moment_counts_once(clerk: User):
    answers = together([partial(signing_in.check_code, clerk, code())] * 4)
    assert len([answer for answer in answers if isinstance(answer, tuple)]) == 1
    assert {type(answer) for answer in answers if not isinstance(answer, tuple)} <= {
        signing_in.WrongCode,
        signing_in.TooEarly,
    }


def test_the_same_recovery_code_at_the_same_moment_counts_once(clerk: User):
    [first, *_rest] = signing_in.new_recovery_codes(clerk)
    answers = together([partial(signing_in.check_code, clerk, first)] * 4)
    assert len([answer for answer in answers if isinstance(answer, tuple)]) == 1


def test_without_the_lock_it_would_count_twice(clerk: User):
    """What the lock is for: two that have both read the row before either wrote it."""
    one, other = Authenticator.objects.get(), Authenticator.objects.get()
    word = code()
    assert one.verify_token(word)
    assert other.verify_token(word)
    assert not Authenticator.objects.get().verify_token(word)
