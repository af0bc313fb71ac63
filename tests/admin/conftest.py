"""People of each role, signed in."""

from collections.abc import Callable

import pytest
from django.contrib.auth.models import Group, User
from django.test import Client

from config import roles


def person(role: str, name: str = "") -> User:
    """A member of staff with one role, as the table gives it."""
    roles.apply()
    user = User.objects.create_user(name or role.replace(" ", "-"), password="secret", is_staff=True)
    user.groups.add(Group.objects.get(name=role))
    return user


def signed_in(user: User) -> Client:
    browser = Client()
    browser.force_login(user)
    return browser


@pytest.fixture
def at_desk() -> Callable[[str], Client]:
    """``at_desk("clerk")``: a browser in which somebody of that role has signed in."""
    return lambda role: signed_in(person(role))


@pytest.fixture
def root() -> Client:
    return signed_in(User.objects.create_superuser("root", password="secret"))
