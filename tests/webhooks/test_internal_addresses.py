"""No webhook ever reaches a machine of ours: not by address, by name, by spelling, by redirect or by a changed mind."""

import asyncio
from collections.abc import Iterator

import httpx
import pytest

from config import messages, reaching
from issuing import delivering, webhooks
from issuing.models import WebhookDelivery, WebhookEndpoint
from tests import cards
from tests.webhooks.conftest import DECOY, Receiver, added
from tests.webhooks.test_delivering import happened

NOW = cards.NOW
pytestmark = pytest.mark.django_db(transaction=True)

INSIDE = [
    "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1", "::ffff:127.0.0.1",
    "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::",
    "2001:db8::1", "2001::1", "fe80::1", "fe80::1%eth0", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "nonsense",
]  # fmt: skip
OUTSIDE = ["93.184.216.34", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"]


def test_which_addresses_are_outside():
    assert [text for text in INSIDE if reaching.is_outside(text)] == []
    assert [text for text in OUTSIDE if not reaching.is_outside(text)] == []


def test_an_allowed_network_is_allowed_in_every_spelling_and_no_other():
    internal = reaching.networks(["127.0.0.0/8", "::1/128"])
    assert all(reaching.is_outside(text, internal=internal) for text in ("127.0.0.1", "::ffff:127.0.0.1", "::1"))
    assert not any(reaching.is_outside(text, internal=internal) for text in ("10.0.0.1", "169.254.169.254", "fe80::1"))


SPELLED = [
    "http://127.0.0.1:{port}/", "http://127.1:{port}/", "http://2130706433:{port}/", "http://0x7f000001:{port}/",
    "http://0177.0.0.1:{port}/", "http://localhost:{port}/", "http://LOCALHOST.:{port}/", "http://0.0.0.0:{port}/",
    "http://0:{port}/", "http://[::1]:{port}/", "http://[::ffff:127.0.0.1]:{port}/", "http://[::ffff:7f00:1]:{port}/",
    "http://①②⑦.0.0.1:{port}/", "http://127。0。0。1:{port}/", "http://127.0.0.2:{port}/",
    "http://169.254.169.254/latest/meta-data/", "http://[64:ff9b::7f00:1]:{port}/",
]  # fmt: skip
NO_URL = [
    "ftp://93.184.216.34/", "//93.184.216.34/", "93.184.216.34", "http://", "http:///x", "http://user@93.184.216.34/",
    "http://user:word@93.184.216.34/", "http://93.184.216.34/#x", "http://93.184.216.34:99999/", "javascript:alert(1)",
    "http://93.184.216.34:0/", "file:///etc/passwd", "http://[::1/", "unix:///tmp/x", "http://name.invalid/",
]  # fmt: skip


@pytest.mark.parametrize("url", [*SPELLED, *NO_URL])
def test_it_is_not_even_kept(merchant, receiver_process: Receiver, url):
    receiver_process.forgets()
    with pytest.raises(webhooks.WebhookUrlNotAllowed):
        added(merchant, url.format(port=receiver_process.port))
    assert not WebhookEndpoint.objects.exists()
    assert receiver_process.got() + receiver_process.got(address=DECOY) == []


@pytest.mark.parametrize("url", SPELLED)
def test_and_if_it_were_kept_it_is_not_sent_to(merchant, receiver_process: Receiver, url):
    receiver_process.forgets()
    added(merchant, "https://93.184.216.34/")
    WebhookEndpoint.objects.update(url=url.format(port=receiver_process.port))
    happened(merchant)
    delivering.sweep(now=NOW)
    assert WebhookDelivery.objects.get().problem in ("INTERNAL_ADDRESS", "NO_SUCH_NAME", "MALFORMED")
    assert receiver_process.got() + receiver_process.got(address=DECOY) == []


def test_these_machines_are_there_to_be_reached(merchant, receiver: Receiver, settings):
    # Otherwise nothing above would prove anything.
    settings.WEBHOOK_INTERNAL_NETWORKS = ["127.0.0.0/8", "::1/128"]
    for url in ("http://2130706433:{port}/", "http://localhost:{port}/", "http://127.0.0.2:{port}/"):
        added(merchant, url.format(port=receiver.port))
    happened(merchant)
    delivering.sweep(now=NOW)
    assert len(receiver.got()) == 2
    assert len(receiver.got(address=DECOY)) == 1


def test_a_redirect_leads_nowhere(merchant, receiver: Receiver):
    receiver.behaves("hook", "redirect", to=receiver.url("inside", host=DECOY))
    added(merchant, receiver.url())
    happened(merchant)
    delivering.sweep(now=NOW)
    assert WebhookDelivery.objects.get().problem == "HTTP 307"
    assert receiver.got(address=DECOY) == []


class Rebinding:
    """A name server of an attacker: the first answer is good, every later one leads inside."""

    def __init__(self) -> None:
        self.answers: Iterator[str] = iter(["127.0.0.1"])
        self.asked = 0

    def __call__(self, host: str, port: int) -> list[str]:
        self.asked += 1
        return [next(self.answers, DECOY)]


def test_a_name_that_changes_its_mind_gains_nothing(merchant, receiver: Receiver):
    added(merchant, receiver.url())
    WebhookEndpoint.objects.update(url=receiver.url(host="rebinding.test"))
    happened(merchant, 2)
    name = Rebinding()
    delivering.sweep(now=NOW, find=name)
    assert len(receiver.got()) == 1, "judged and connected to by one answer"
    assert receiver.got()[0]["headers"]["host"] == f"rebinding.test:{receiver.port}"
    assert receiver.got(address=DECOY) == []
    assert name.asked == 2, "and asked once for each message"
    assert set(WebhookDelivery.objects.values_list("problem", flat=True)) == {"", "INTERNAL_ADDRESS"}


def test_whoever_looked_twice_would_be_led_inside(receiver: Receiver):
    # The negative control: judge the name, then connect by name, which asks again.
    name = Rebinding()
    internal = webhooks.internal_networks()
    asyncio.run(reaching.aim(receiver.url(host="rebinding.test"), internal=internal, find=name))
    httpx.post(receiver.url(host=name("rebinding.test", receiver.port)[0]), trust_env=False)
    assert len(receiver.got(address=DECOY)) == 1


def test_one_internal_address_among_others_is_enough_to_refuse(receiver: Receiver):
    reply = messages.tell(
        url=receiver.url(host="two.test"),
        headers={},
        content=b"{}",
        internal=webhooks.internal_networks(),
        find=lambda host, port: ["127.0.0.1", "10.0.0.1"],
    )
    assert (reply.status, reply.failure) == (None, "INTERNAL_ADDRESS")
    assert receiver.got() == []


def test_an_address_that_is_down_leaves_time_for_the_next(receiver: Receiver, settings):
    settings.WEBHOOK_INTERNAL_NETWORKS = ["127.0.0.0/8"]
    reply = messages.tell(
        url=receiver.url(host="two.test"),
        headers={},
        content=b"{}",
        internal=webhooks.internal_networks(),
        find=lambda host, port: ["127.0.0.3", "127.0.0.1"],
    )
    assert reply.status == 200


def test_no_proxy_of_the_environment_is_used(receiver: Receiver, merchant, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, receiver.url(host=DECOY))
    added(merchant, receiver.url())
    happened(merchant)
    delivering.sweep(now=NOW)
    assert (len(receiver.got()), receiver.got(address=DECOY)) == (1, [])


def test_what_is_live_is_only_sent_over_https(merchant, receiver: Receiver):
    with pytest.raises(webhooks.WebhookUrlNotAllowed):
        added(merchant, receiver.url(), is_live=True)
    with pytest.raises(webhooks.WebhookUrlNotAllowed):
        added(merchant, "http://93.184.216.34/", is_live=True)
    endpoint, _secret = added(merchant, "https://93.184.216.34/", is_live=True)
    with pytest.raises(webhooks.WebhookUrlNotAllowed):
        webhooks.change(endpoint=endpoint, url="http://93.184.216.34/")
    added(merchant, "http://93.184.216.34/", is_live=False)
