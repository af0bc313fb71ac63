"""The catalogue: every code once, with one status, where a problem's ``type`` links to, and in the document."""

import html

import pytest
from django.utils import translation

from config import api
from config.errors import NotFound, Refused
from prepaid.refusals import ERRORS, ROOMS, as_markdown, catalogue


def test_a_code_has_one_status_and_one_text():
    found: dict[str, tuple[int, str]] = {}
    for room in ROOMS:
        for thing in vars(room).values():
            if isinstance(thing, type) and issubclass(thing, Refused):
                assert found.setdefault(thing.code, (thing.status, str(thing.text))) == (thing.status, str(thing.text))


def test_the_page_that_a_problem_links_to_explains_its_code(client):
    for language in ("en", "zh-hans"):
        page = client.get(api.CATALOGUE, headers={"Accept-Language": language})
        assert page.status_code == 200
        text = html.unescape(page.content.decode())
        with translation.override(language):
            for entry in catalogue():
                assert f'id="{entry.code}"' in text
                assert entry.cause in text
                assert entry.remedy in text


def test_every_refusal_says_what_to_do_about_it():
    assert not [entry.code for entry in catalogue() if not entry.remedy]
    with translation.override("zh-hans"):
        assert not [entry.code for entry in catalogue() if entry.remedy.isascii()]


def test_what_is_told_to_wait_may_be_sent_again():
    assert all(entry.can_be_sent_again for entry in catalogue() if entry.status in (429, 500, 503))
    assert not any(entry.can_be_sent_again for entry in catalogue() if entry.status in (400, 401, 403, 404, 413, 415))


@pytest.mark.django_db
def test_a_problem_links_there(lotus):
    problem = lotus.get("cards/x").json()
    assert problem["type"] == f"{api.CATALOGUE}#CardNotFound"
    assert (problem["title"], problem["status"]) == ("Card not found", 404)


def test_every_ledger_refusal_and_every_404_stands_in_it():
    codes = {entry.code for entry in catalogue()}
    assert {"InsufficientBalance", "IdempotencyKeyReused", "ReferenceUsed", "KeyNotAccepted", "Failure"} <= codes
    assert {"CardNotFound", "ProgramNotFound", "ExchangeNotFound", NotFound.code} <= codes
    assert {"CouponNotRedeemable", "TooManyGuesses", "InsufficientPoints", "QuoteExpired"} <= codes


def test_the_catalogue_is_written_down_as_it_is():
    assert ERRORS.read_text(encoding="utf-8") == as_markdown(), "write it anew: manage.py api_errors"
