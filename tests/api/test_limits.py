"""How often may be asked: exactly so often, whoever asks at once, and what happens with Redis away."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
import redis
from django.conf import settings as configured

from config import limits
from config.ids import public_id
from issuing.models import Kind, Merchant
from tests import cards
from tests.api.asking import asker, insured
from tests.partners import PATIENCE, free_port
from tests.races import together

LIMIT = 20
CALLS = 200


def redis_client() -> redis.Redis:
    return redis.Redis.from_url(configured.REDIS_URL)


def at_once(call: Callable[[], Any], times: int) -> list[Any]:
    gate = threading.Barrier(times)

    def make(_n: int) -> Any:
        gate.wait(PATIENCE)
        return call()

    with ThreadPoolExecutor(times) as threads:
        return list(threads.map(make, range(times)))


def in_this_minute(seconds: float = 20) -> None:
    """Come back with so many seconds of Redis's minute left: what this test counts is then counted in one."""
    while limits.PERIOD - redis_client().time()[0] % limits.PERIOD < seconds:
        time.sleep(0.2)


# Counting


def read_then_write(name: str, all_looked: threading.Barrier) -> bool:
    """The control: look how many there were, then count one more."""
    client = redis_client()
    if int(client.get(name) or 0) >= LIMIT:
        return False
    all_looked.wait(PATIENCE)
    client.incr(name)
    client.expire(name, 60)
    return True


def test_of_two_hundred_at_once_twenty_pass_and_a_counter_that_looks_first_lets_more_through():
    in_this_minute()
    whose = uuid4().hex
    found = at_once(partial(limits.take, "read", whose, own={"read": LIMIT}), CALLS)
    assert sum(standing.passes for standing in found) == LIMIT
    assert sorted(standing.left for standing in found if standing.passes) == list(range(LIMIT))
    careless = partial(read_then_write, f"control:{whose}", threading.Barrier(CALLS))
    assert sum(at_once(careless, CALLS)) > LIMIT


def test_each_key_and_each_kind_is_counted_by_itself():
    whose = uuid4().hex
    for kind, who in (("read", whose), ("write", whose), ("read", uuid4().hex)):
        assert limits.take(kind, who, own={kind: 1}).passes


def test_what_was_asked_in_the_minute_before_still_counts_for_its_share():
    in_this_minute()
    whose = uuid4().hex
    now = redis_client().time()
    minute, gone = divmod(now[0], limits.PERIOD)
    redis_client().hset(f"limit:read:{whose}", mapping={"window": minute - 1, "count": 100, "before": 0})
    standing = limits.take("read", whose, own={"read": 100})
    # Of the hundred the share of the last minute that is not over yet still counts.
    expected = 100 - 100 * (1 - gone / limits.PERIOD) - 1
    assert standing.passes == (expected >= 0)
    assert abs(standing.left - max(0, expected)) <= 2


def test_who_is_refused_is_told_when_to_come_again_and_then_passes():
    in_this_minute()
    whose = uuid4().hex
    most = limits.PERIOD  # one more each second, once this minute is over
    key = f"limit:read:{whose}"
    minute = redis_client().time()[0] // limits.PERIOD
    redis_client().hset(key, mapping={"window": minute, "count": 0, "before": most + 1})
    gone = redis_client().time()[0] % limits.PERIOD
    if gone < 2:
        standing = limits.take("read", whose, own={"read": most})
        assert not standing.passes
    redis_client().hset(key, mapping={"window": minute, "count": most, "before": 0})
    standing = limits.take("read", whose, own={"read": most})
    assert not standing.passes
    left_of_minute = limits.PERIOD - redis_client().time()[0] % limits.PERIOD
    assert left_of_minute <= standing.seconds <= left_of_minute + 2


def test_nothing_is_kept_for_longer_than_it_counts():
    whose = uuid4().hex
    limits.take("read", whose)
    assert 0 < redis_client().ttl(f"limit:read:{whose}") <= 2 * limits.PERIOD


def test_counting_costs_no_more_than_a_round_trip():
    """Beside a bare PING on the same machine in the same moment: what the script adds is little."""
    whose = uuid4().hex
    client = redis.Redis.from_url(configured.REDIS_URL, single_connection_client=True)

    def took(call) -> float:
        began = time.perf_counter()
        call()
        return time.perf_counter() - began

    client.ping(), limits.take("read", whose)
    # In turns, so that what else the machine does falls on both.
    pairs = [(took(client.ping), took(partial(limits.take, "read", whose))) for _n in range(400)]
    pings, takes = (sorted(column)[200] for column in zip(*pairs, strict=True))
    assert takes < 4 * pings, (takes, pings)


# Over HTTP


@pytest.mark.django_db
def test_every_answer_to_a_key_says_how_it_stands(lotus, settings):
    settings.RATE_LIMITS = {**settings.RATE_LIMITS, "read": 50}
    in_this_minute(5)
    left = []
    for path, status in (("cards", 200), ("cards/x", 404), ("cards?x=1", 400), ("cards/lookup", 405)):
        answer = lotus.get(path)
        assert answer.status_code == status
        assert answer.headers["RateLimit-Limit"] == "50"
        assert 1 <= int(answer.headers["RateLimit-Reset"]) <= 60
        left.append(int(answer.headers["RateLimit-Remaining"]))
    assert left == [49, 48, 47, 46]


@pytest.mark.django_db
def test_over_the_limit_is_a_problem_with_the_time_to_wait_and_has_no_effect(lotus):
    in_this_minute(10)
    Merchant.objects.filter(pk=lotus.merchant.pk).update(rate_limits={"payment": 2})
    card = cards.opened(cards.program(Kind.BONUS, merchant=lotus.merchant))
    path = f"cards/{public_id('crd', card.pk)}/payments"
    answers = [lotus.post(path, {"list_amount": 1, "reference": f"ORDER-{n}"}) for n in range(3)]
    assert [answer.status_code for answer in answers] == [201, 201, 429]
    refused = answers[-1]
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert refused.json()["code"] == "TooManyRequests"
    assert refused.headers["Retry-After"] == refused.headers["RateLimit-Reset"]
    assert (refused.headers["RateLimit-Limit"], refused.headers["RateLimit-Remaining"]) == ("2", "0")
    card.refresh_from_db()
    assert card.remaining == 100_000 - 2
    # Another kind of request, and another key of the merchant, are counted by themselves.
    assert lotus.get("cards").status_code == 200
    assert asker(lotus.merchant).post(path, {"list_amount": 1, "reference": "ORDER-9"}).status_code == 201


@pytest.mark.django_db
def test_keys_that_do_not_exist_are_counted_by_address(lotus, settings):
    settings.RATE_LIMITS = {**settings.RATE_LIMITS, "guess": 3}
    in_this_minute(10)
    address = f"2001:db8::{uuid4().hex[:4]}"
    wrong = {"Authorization": f"Bearer sk_live_{'0' * 48}"}
    answers = [lotus.client.get("/api/v1/cards", headers=wrong, REMOTE_ADDR=address) for _n in range(4)]
    assert [answer.status_code for answer in answers] == [401, 401, 401, 429]
    assert [answer.headers["RateLimit-Remaining"] for answer in answers] == ["2", "1", "0", "0"]
    # Who has a key is not kept out by a guesser at the same address, and other addresses guess for themselves.
    right = {"Authorization": f"Bearer {lotus.key}"}
    assert lotus.client.get("/api/v1/cards", headers=right, REMOTE_ADDR=address).status_code == 200
    assert lotus.client.get("/api/v1/cards", headers=wrong, REMOTE_ADDR="192.0.2.200").status_code == 401


@pytest.mark.django_db
def test_numbers_are_looked_up_on_a_limit_of_their_own(lotus):
    in_this_minute(10)
    Merchant.objects.filter(pk=lotus.merchant.pk).update(rate_limits={"lookup": 1})
    asked = [lotus.post("cards/lookup", {"number": "9156000000000000000"}) for _n in range(2)]
    assert [answer.status_code for answer in asked] == [404, 429]
    assert lotus.get("cards").status_code == 200


@pytest.mark.django_db(transaction=True)
def test_two_hundred_requests_at_once_through_the_whole_stack():
    racing = asker(insured())
    Merchant.objects.update(rate_limits={"read": LIMIT})
    in_this_minute(25)

    def many() -> list[int]:
        return [racing.get("cards").status_code for _n in range(CALLS // 8)]

    codes = [code for part in together([many] * 8) for code in part]
    assert (codes.count(200), codes.count(429)) == (LIMIT, CALLS - LIMIT)


@pytest.mark.parametrize("wrong", [{"paiment": 1}, {"read": 0}, {"read": "1"}, {"read": True}, [], {"read": 1.5}])
def test_a_merchants_own_limits_are_read_strictly(wrong):
    with pytest.raises(limits.ValidationError):
        limits.are_rate_limits(wrong)
    limits.are_rate_limits({"read": 1, "payment": 10**6})


# Redis away


@pytest.fixture
def away(settings, monkeypatch):
    """No Redis; gives the address where there is one."""
    there = settings.REDIS_URL
    settings.REDIS_URL = f"redis://127.0.0.1:{free_port()}/0"
    monkeypatch.setattr(limits, "_redis", limits._Redis())
    return there


@pytest.mark.django_db
def test_with_redis_away_tills_go_on_uncounted_unless_told_otherwise(lotus, settings, away):
    answer = lotus.get("cards")
    assert (answer.status_code, "RateLimit-Limit" in answer.headers) == (200, False)
    settings.RATE_LIMITS_CLOSED = True
    answer = lotus.get("cards")
    assert (answer.status_code, answer.json()["code"], answer.headers["Retry-After"]) == (503, "LimitsUnknown", "1")


def test_a_redis_that_is_away_is_asked_by_one_once_in_a_while(away):
    asked = []
    way = limits._redis
    connection = way._connection
    way._connection = lambda: asked.append(1) or connection()
    assert at_once(partial(limits.take, "read", "x"), 50) == [None] * 50
    first = len(asked)  # those that were under way when the first found out
    began = time.perf_counter()
    for _n in range(1000):
        limits.take("read", "x")
    assert time.perf_counter() - began < 0.5
    assert len(asked) == first
    way._away_until = time.monotonic() - 1  # the while is over
    at_once(partial(limits.take, "read", "x"), 50)
    assert len(asked) == first + 1


def test_a_redis_that_is_there_again_counts_again(away, settings):
    assert limits.take("read", "x") is None
    settings.REDIS_URL = away
    assert limits.take("read", "x") is None  # nobody has looked yet
    limits._redis._away_until = time.monotonic() - 1
    assert limits.take("read", uuid4().hex).passes


def test_a_restarted_redis_does_not_know_the_script_and_is_told_it():
    whose = uuid4().hex
    assert limits.take("read", whose).passes
    redis_client().script_flush()
    assert limits.take("read", whose).passes
