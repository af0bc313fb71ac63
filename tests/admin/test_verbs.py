"""Each button makes one call into the business, shows its refusal in words, and asks before what cannot be undone."""

import json
import re
from datetime import timedelta
from ipaddress import ip_address
from typing import Any

import pytest
from django.contrib.messages import get_messages
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db.models import Model
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from claims.models import Claim, InsuredEvent, Recovery
from config.errors import SamePerson
from config.models import Act
from insurance.models import InsurerMessage, Policy
from issuing import keys, numbering
from issuing.models import Batch, CardProgram, Merchant, MerchantKey
from prepaid import processing
from prepaid.models import Break, Card, CardMove, Run, Transaction
from tests import cards
from tests.admin import records
from tests.admin.conftest import person, signed_in

pytestmark = pytest.mark.django_db(databases=["default", "owner"])


def address(row: Model | type[Model], verb: str) -> str:
    name = f"admin:{row._meta.app_label}_{row._meta.model_name}_{verb}"
    return reverse(name, args=[row.pk] if isinstance(row, Model) else [])


def press(browser: Client, row: Model | type[Model], verb: str, **form: Any) -> str:
    """Press a button with a filled-in form; what staff read afterwards. What was tried is written down, once."""
    page = browser.get(address(row, verb))
    assert page.status_code in (200, 302)
    form = {**seen(page.content.decode()), **form}
    before = Act.objects.filter(verb=verb).count()
    page = browser.post(address(row, verb), form)
    is_whole = form.get("reason") != ""
    assert Act.objects.filter(verb=verb).count() == before + is_whole, verb
    return " ".join(str(message) for message in get_messages(page.wsgi_request))


def seen(page: str) -> dict[str, str]:
    """What the form of a second person's verb sends along of what it shows."""
    found = re.search(r'name="seen" value="(\w+)"', page)
    return {"seen": found[1]} if found else {}


def is_offered(browser: Client, row: Model, verb: str) -> bool:
    page = reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_change", args=[row.pk])
    return address(row, verb) in browser.get(page).content.decode()


def sure(quote: str) -> str:
    """What the form of a quote sends along when it is sent for good."""
    found = re.search(r'name="sure" value="(\w+)"', quote)
    assert found
    return found.group(1)


@pytest.fixture
def clerk(at_desk: Any) -> Client:
    return at_desk("clerk")


# Cards -----------------------------------------------------------------------------------------------------------


def test_a_clerk_opens_a_card_after_a_quote(clerk: Client) -> None:
    program = records.insured_program(tiers=[(1_000_000, 250_000)])
    form = {
        "program": program.pk, "amount": "12,345.67", "holder_name": "王小明", "phone": "13800000001",
        "payment_method": "WECHAT", "reference": "COUNTER-1",
    }  # fmt: skip
    quote = clerk.post(address(Card, "open"), form).content.decode()
    assert "¥14,845.67" in quote
    assert "2 × ¥5,000.00, 1 × ¥2,345.67" in quote
    assert not Card.objects.exists()

    changed = clerk.post(address(Card, "open"), {**form, "amount": "99,999.00", "sure": sure(quote)})
    assert "¥99,999.00" in changed.content.decode()
    assert not Card.objects.exists()

    page = clerk.post(address(Card, "open"), {**form, "sure": sure(quote)})
    card = Card.objects.get()
    assert page.headers["Location"] == reverse("admin:prepaid_card_change", args=[card.pk])
    assert card.remaining == 1_484_567
    act = Act.objects.get(verb="open")
    assert (act.who, act.verb, act.kind, act.object_id) == ("clerk", "open", "prepaid.card", str(card.pk))

    refused = clerk.post(address(Card, "open"), {**form, "sure": sure(quote)}).content.decode()
    assert "This reference was used before" in refused
    assert Card.objects.count() == 1


@pytest.mark.parametrize("amount", ["NaN", "1e400", "-1", "0", "0.001", "１２３", "9" * 24, "\x00"])
def test_an_amount_that_is_none_opens_nothing(clerk: Client, amount: str) -> None:
    program = records.insured_program()
    form = {"program": program.pk, "amount": amount, "payment_method": "CASH", "reference": "R", "sure": "1"}
    assert clerk.post(address(Card, "open"), form).status_code == 200
    assert not Card.objects.exists()


def test_a_rule_that_refuses_is_told_in_words(clerk: Client) -> None:
    program = records.insured_program()
    form = {"program": program.pk, "amount": "100", "payment_method": "CASH", "reference": "R"}
    quote = clerk.post(address(Card, "open"), form).content.decode()
    page = clerk.post(address(Card, "open"), {**form, "sure": sure(quote)}).content.decode()
    # The page escapes the apostrophe of the holder's name.
    assert "A named card needs its holder" in page


def test_a_top_up_is_quoted_and_insured(clerk: Client) -> None:
    card = records.card()
    form = {"amount": "600.00", "payment_method": "ALIPAY", "reference": "TOP-1"}
    quote = clerk.post(address(card, "top_up"), form).content.decode()
    assert "¥600.00" in quote
    assert Card.objects.get().remaining == 100_000
    assert "¥600.00" in press(clerk, card, "top_up", **form, sure=sure(quote))
    assert Card.objects.get().remaining == 160_000
    assert Policy.objects.get(card=card).endorsements.get().amount == 60_000


def test_a_card_is_frozen_and_freed_with_a_reason(clerk: Client) -> None:
    card = records.card()
    assert press(clerk, card, "freeze", reason="") == ""
    assert Card.objects.get().state == Card.State.ACTIVE
    assert "Frozen" in press(clerk, card, "freeze", reason="stolen phone")
    move = CardMove.objects.get()
    assert (move.to_state, move.reason, move.by) == ("FROZEN", "stolen phone", "staff:clerk")
    assert not is_offered(clerk, card, "freeze")
    press(clerk, card, "unfreeze", reason="found again")
    assert Card.objects.get().state == Card.State.ACTIVE


def test_looking_changes_nothing(clerk: Client) -> None:
    card = records.card()
    for verb in ("freeze", "close", "report_lost", "top_up"):
        assert clerk.get(address(card, verb), {"reason": "x"}).status_code == 200
    assert Card.objects.get().state == Card.State.ACTIVE


def test_a_verb_without_its_token_is_refused() -> None:
    user = person("clerk")
    card = records.card()
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(user)
    assert browser.post(address(card, "freeze"), {"reason": "x"}).status_code == 403
    assert Card.objects.get().state == Card.State.ACTIVE


def test_somebody_was_first(clerk: Client) -> None:
    card = records.card()
    processing.freeze(card=card, reason="x", by="staff:other", now=timezone.now())
    page = clerk.post(address(card, "freeze"), {"reason": "y"}, follow=True)
    assert "somebody was first" in page.content.decode()
    assert CardMove.objects.count() == 1


def test_a_lost_card_gets_a_number_that_is_shown_once(clerk: Client) -> None:
    card = records.card()
    press(clerk, card, "report_lost", reason="left on the train")
    told = clerk.post(address(card, "replace"), {"reason": "holder came with identity card"})
    number = numbering.unseal(Card.objects.get().number_sealed)
    assert number in told.content.decode()
    assert "no-store" in told.headers["Cache-Control"]
    page = clerk.get(reverse("admin:prepaid_card_change", args=[card.pk])).content.decode()
    assert number not in page


def test_closing_shows_what_is_paid_back_before_it_is_done(clerk: Client) -> None:
    card = records.card(records.insured_program(tiers=[(100_000, 20_000)]))
    cards.paid(card, 45_000, at=timezone.now())
    page = clerk.get(address(card, "close")).content.decode()
    assert "¥625.00" in page
    assert "A closed card is never opened again." in page
    assert "¥625.00" in press(clerk, card, "close", reason="holder moves away")
    assert Card.objects.get().state == Card.State.CLOSED


# Transactions ----------------------------------------------------------------------------------------------------


def test_a_payment_is_refunded_in_part_and_never_beyond_it(clerk: Client) -> None:
    card = records.card()
    payment = Transaction.objects.get(pk=cards.paid(card, 30_000, at=timezone.now()).id)
    press(clerk, payment, "refund", amount="100.00", reference="RF-1", reason="one item back")
    assert Card.objects.get().remaining == 80_000
    refused = clerk.post(address(payment, "refund"), {"amount": "200.01", "reference": "RF-2", "reason": "more"})
    assert "more than is left of the payment" in refused.content.decode()
    press(clerk, payment, "refund", amount="", reference="RF-3", reason="the rest")
    assert Card.objects.get().remaining == 100_000
    # The same form sent twice: nothing is done twice.
    press(clerk, payment, "refund", amount="", reference="RF-3", reason="the rest")
    assert Card.objects.get().remaining == 100_000


def test_a_payment_made_by_mistake_is_reversed(clerk: Client) -> None:
    card = records.card()
    payment = Transaction.objects.get(pk=cards.paid(card, 30_000, at=timezone.now()).id)
    press(clerk, payment, "reverse", reference="RV-1", reason="wrong card")
    assert Card.objects.get().remaining == 100_000


def test_what_is_no_payment_offers_no_refund(clerk: Client) -> None:
    card = records.card()
    purchase = Transaction.objects.get(card=card)
    assert not is_offered(clerk, purchase, "refund")
    clerk.post(address(purchase, "refund"), {"reference": "R", "reason": "x"})
    assert Transaction.objects.count() == 1


# Batches ---------------------------------------------------------------------------------------------------------

HEADER = "reference,program,holder_name,phone,prepaid_amount,paid_at,payment_method\n"


def upload(browser: Client, text: bytes) -> Batch:
    file = SimpleUploadedFile("november.csv", text, content_type="text/csv")
    assert browser.post(address(Batch, "upload"), {"file": file}).status_code == 302
    return Batch.objects.latest("recorded_at")


def test_a_batch_takes_two_people(clerk: Client, at_desk: Any) -> None:
    program = records.insured_program()
    row = f"B-1,{program.code},王芳,13900000001,1000.00,2026-01-05T10:00:00+08:00,WECHAT\n"
    batch = upload(clerk, (HEADER + row).encode())
    assert (batch.state, batch.made_by.username) == (Batch.State.STAGED, "clerk")
    assert clerk.post(address(batch, "approve")).status_code == 403

    approver = at_desk("approver")
    assert "¥1,000.00" in approver.get(address(batch, "approve")).content.decode()
    press(approver, batch, "approve")
    batch.refresh_from_db()
    assert (batch.state, batch.approved_by.username) == (Batch.State.APPROVED, "approver")
    page = approver.get(reverse("admin:issuing_batch_change", args=[batch.pk])).content.decode()
    assert 'http-equiv="refresh"' in page
    assert "<progress" in page


def test_whoever_prepared_a_batch_sees_why_the_button_is_dead(root: Client) -> None:
    program = records.insured_program()
    row = f"B-1,{program.code},王芳,13900000001,1000.00,2026-01-05T10:00:00+08:00,WECHAT\n"
    batch = upload(root, (HEADER + row).encode())
    page = root.get(reverse("admin:issuing_batch_change", args=[batch.pk])).content.decode()
    assert "You prepared this batch: a second person approves it." in page
    root.post(address(batch, "approve"))
    batch.refresh_from_db()
    assert batch.state == Batch.State.STAGED


@pytest.mark.parametrize(
    "text", [b"", b"a,b,c\n1,2,3\n", b"\xff\xfe\x00", HEADER.encode() + b'"unclosed\n', b"\x00" * 100]
)
def test_a_file_that_is_none_is_kept_with_its_problem(clerk: Client, text: bytes) -> None:
    if text:
        batch = upload(clerk, text)
        assert batch.state == Batch.State.REJECTED
        assert batch.problem
    else:
        # An empty file does not even leave the form.
        page = clerk.post(address(Batch, "upload"), {"file": SimpleUploadedFile("empty.csv", b"")})
        assert page.status_code == 200


def test_refused_rows_come_back_as_a_harmless_file(clerk: Client) -> None:
    batch = records.batch(records.insured_program(), made_by=records.staff("somebody"))
    page = clerk.get(reverse("admin:issuing_batch_change", args=[batch.pk])).content.decode()
    assert "FormulaCell" in page
    file = clerk.post(address(batch, "download"))
    text = b"".join(file.streaming_content).decode("utf-8-sig")  # type: ignore[attr-defined]
    head, line = text.splitlines()
    assert head == "line,refused_as,reason,row"
    assert line.startswith("4,FormulaCell,")
    assert "attachment" in file.headers["Content-Disposition"]


# Merchants -------------------------------------------------------------------------------------------------------


def test_an_api_key_is_shown_once_and_can_be_revoked(at_desk: Any) -> None:
    administrator = at_desk("administrator")
    merchant = records.insured_program().merchant
    wanted = {
        "name": "shop 12",
        "scopes": ["cards:read", "payments:write"],
        "allowed_from": "192.0.2.0/24, 2001:db8::1",
    }
    key = shown_key(administrator.post(address(merchant, "make_key"), wanted))
    here = ip_address("192.0.2.1")
    assert keys.find(key, now=timezone.now(), address=here).merchant_id == merchant.pk
    kept = MerchantKey.objects.get()
    assert kept.scopes == ["cards:read", "payments:write"]
    assert kept.allowed_from == ["192.0.2.0/24", "2001:db8::1/128"]
    again = administrator.get(reverse("admin:issuing_merchantkey_change", args=[kept.pk])).content.decode()
    assert key not in again
    press(administrator, kept, "revoke")
    kept.refresh_from_db()
    assert kept.revoked_at is not None


def shown_key(page: Any) -> str:
    assert "no-store" in page.headers["Cache-Control"]
    found = re.search("sk_(live|test)_[0-9a-f]{48}", page.content.decode())
    assert found
    return found[0]


def test_a_key_is_rotated_at_the_desk_and_written_into_the_log(at_desk: Any) -> None:
    administrator = at_desk("administrator")
    merchant = records.insured_program().merchant
    old, _text = keys.make(merchant=merchant, name="shop", now=timezone.now())
    new = shown_key(administrator.post(address(old, "rotate"), {"days": 3}))
    made = keys.find(new, now=timezone.now())
    old.refresh_from_db()
    assert made.replaces == old
    assert timedelta(days=2) < old.expires_at - timezone.now() <= timedelta(days=3)
    assert Act.objects.filter(verb="rotate", object_id=str(old.pk)).exists()
    page = administrator.get(reverse("admin:issuing_merchantkey_change", args=[old.pk])).content.decode()
    assert "/do/rotate/" not in page  # it has its successor


def test_a_merchant_gets_its_test_twin_at_the_desk_and_keys_of_its_side(at_desk: Any) -> None:
    administrator = at_desk("administrator")
    merchant = records.insured_program().merchant
    for _twice in range(2):
        administrator.post(address(merchant, "make_test_twin"))
    twin = Merchant.objects.get(test_of=merchant)
    assert twin.programs.count() == merchant.programs.count()
    key = shown_key(administrator.post(address(twin, "make_key"), {"name": "trial", "scopes": ["cards:read"]}))
    assert key.startswith("sk_test_")
    page = administrator.get(reverse("admin:issuing_merchant_change", args=[twin.pk])).content.decode()
    assert "/do/make_test_twin/" not in page
    for side, codes in (("live", {merchant.code}), ("test", {twin.code})):
        rows = administrator.get(reverse("admin:issuing_merchant_changelist") + f"?side={side}").context["cl"].queryset
        assert {row.code for row in rows} == codes


def test_a_program_is_withdrawn_and_offered_again(at_desk: Any) -> None:
    administrator = at_desk("administrator")
    program = records.insured_program()
    press(administrator, program, "withdraw")
    assert CardProgram.objects.get().state == CardProgram.State.WITHDRAWN
    press(administrator, program, "offer_again")
    assert CardProgram.objects.get().state == CardProgram.State.ACTIVE


# Claims ----------------------------------------------------------------------------------------------------------


def test_a_merchant_fails_only_with_two_people(at_desk: Any) -> None:
    card = records.card()
    adjuster, approver = at_desk("adjuster"), at_desk("approver")
    day = (timezone.localdate() - timedelta(days=3)).isoformat()
    form = {"merchant": card.merchant_id, "trigger": "BANKRUPT", "loss_date": day, "evidence": "court decision"}
    adjuster.post(address(InsuredEvent, "declare"), form)
    event = InsuredEvent.objects.get()
    assert adjuster.post(address(event, "confirm")).status_code == 403
    press(approver, event, "confirm")
    card.merchant.refresh_from_db()
    assert card.merchant.state == "FAILED"
    press(adjuster, event, "file_all")
    event.refresh_from_db()
    assert event.job == InsuredEvent.Job.FILE
    busy = adjuster.get(reverse("admin:claims_insuredevent_change", args=[event.pk])).content.decode()
    assert 'http-equiv="refresh"' in busy
    assert address(event, "assess_all") not in busy


def test_a_claim_goes_through_two_pairs_of_hands(at_desk: Any) -> None:
    card = records.card(records.insured_program(tiers=[(100_000, 20_000)]))
    records.accepted(card)
    claim = records.claim(card)
    adjuster, approver = at_desk("adjuster"), at_desk("approver")
    assert "¥1,000.00" in press(adjuster, claim, "assess", refunded_by_merchant="", excluded="")
    page = adjuster.get(reverse("admin:claims_claim_change", args=[claim.pk])).content.decode()
    assert "compensation-1" in page
    assert "ledger entries used" in page.lower()
    assert adjuster.post(address(claim, "approve")).status_code == 403
    assert is_offered(approver, claim, "approve")
    press(approver, claim, "approve")
    press(approver, claim, "pay")
    claim.refresh_from_db()
    assert (claim.state, claim.payable) == (Claim.State.PAID, 100_000)
    assert Card.objects.get().state == Card.State.COMPENSATED

    owed = Recovery.objects.get()
    assert "¥600.00" in press(adjuster, owed, "record", amount="400.00", reference="WIRE-1")
    press(adjuster, owed, "propose_write_off", note="estate is empty")
    press(approver, owed, "write_off")
    owed.refresh_from_db()
    assert owed.state == Recovery.State.WRITTEN_OFF


def test_whoever_assessed_sees_why_they_cannot_decide(root: Client) -> None:
    claim = records.claim(records.card())
    press(root, claim, "assess", refunded_by_merchant="0", excluded="")
    page = root.get(reverse("admin:claims_claim_change", args=[claim.pk])).content.decode()
    assert "You assessed this claim: a second person decides it." in page
    root.post(address(claim, "approve"))
    claim.refresh_from_db()
    assert claim.state == Claim.State.ASSESSED


def test_a_claim_is_rejected_with_its_reason(at_desk: Any) -> None:
    card = records.card()
    claim = records.claim(card, Claim.State.ASSESSED)
    press(at_desk("approver"), claim, "reject", reason="bought with a stolen card")
    claim.refresh_from_db()
    assert (claim.state, claim.reason) == (Claim.State.REJECTED, "bought with a stolen card")


def test_missing_papers_are_asked_for_once_and_stop_the_clock(at_desk: Any) -> None:
    claim = records.claim(records.card())
    adjuster = at_desk("adjuster")
    press(adjuster, claim, "ask_for_papers", papers="copy of the purchase receipt")
    page = adjuster.get(reverse("admin:claims_claim_change", args=[claim.pk])).content.decode()
    assert "copy of the purchase receipt" in page
    assert not is_offered(adjuster, claim, "ask_for_papers")
    press(adjuster, claim, "receive_papers")
    claim.refresh_from_db()
    assert claim.papers_received_at is not None


def test_a_claim_past_its_term_is_on_the_first_page(at_desk: Any) -> None:
    claim = records.claim(records.card())
    Claim.objects.filter(pk=claim.pk).update(filed_at=timezone.now() - timedelta(days=31))
    adjuster = at_desk("adjuster")
    needs = {str(need.label): need for need in adjuster.get(reverse("admin:index")).context["needs"]}
    late = needs["claims not decided within 30 days"]
    assert (late.count, late.is_pressing) == (1, True)
    assert [row.pk for row in adjuster.get(late.address).context["cl"].result_list] == [claim.pk]


def test_a_claim_for_one_card_is_filed_on_its_page(at_desk: Any) -> None:
    card = records.card()
    adjuster = at_desk("adjuster")
    assert not is_offered(adjuster, card, "file_claim")
    records.event(card.merchant, declared_by=records.staff("a"), confirmed_by=records.staff("b"))
    press(adjuster, card, "file_claim")
    assert Claim.objects.get().card_id == card.pk


# Partners and reconciliation -------------------------------------------------------------------------------------


def test_the_insurer_is_asked_again(at_desk: Any) -> None:
    policy = records.unresolved(records.card())
    desk = at_desk("partner desk")
    page = desk.get(reverse("admin:insurance_policy_change", args=[policy.pk])).content.decode()
    assert "timed out" in page
    press(desk, policy, "ask_again")
    policy.refresh_from_db()
    assert policy.state == Policy.State.UNKNOWN
    assert policy.due_at is not None
    assert not is_offered(desk, policy, "ask_again")


def test_the_whole_conversation_about_a_policy_is_shown(at_desk: Any) -> None:
    policy = records.unresolved(records.card())
    said = {"direction": "SENT", "message_id": "m-7", "type": "ENROLMENT", "request_nos": [policy.request_no, "other"]}
    item = {"request_no": policy.request_no, "code": "1007", "text": "not in our books"}
    for direction, facts in (("SENT", said), ("RECEIVED", {"message_id": "m-7", "type": "ANSWER"})):
        InsurerMessage.objects.create(
            **{**facts, "direction": direction},
            body=json.dumps({"body": {"items": [{"request_no": "other", "code": "SECRET"}, item]}}).encode(),
            recorded_at=timezone.now(),
        )
    page = at_desk("partner desk").get(reverse("admin:insurance_policy_change", args=[policy.pk])).content.decode()
    assert page.count("not in our books") == 2
    assert "SECRET" not in page


def test_a_break_is_taken_and_a_large_one_resolved_by_another(at_desk: Any) -> None:
    small, large = records.found_break(50_000), records.found_break(200_000)
    user = person("partner desk")
    desk, approver = signed_in(user), at_desk("approver")
    for found in (small, large):
        press(desk, found, "take")
    press(desk, small, "resolve", resolution="posted twice by the insurer")
    press(desk, large, "resolve", resolution="posted twice by the insurer")
    page = desk.get(reverse("admin:prepaid_break_change", args=[large.pk])).content.decode()
    assert str(SamePerson.text) in page
    small.refresh_from_db()
    large.refresh_from_db()
    assert (small.state, large.state) == (Break.State.RESOLVED, Break.State.OPEN)
    press(approver, large, "resolve", resolution="agreed with the insurer")
    large.refresh_from_db()
    assert large.state == Break.State.RESOLVED
    press(desk, small, "reopen", reason="posted once, after all")
    small.refresh_from_db()
    assert small.state == Break.State.OPEN


def test_a_day_is_run_by_hand_but_not_before_it_is_over(at_desk: Any) -> None:
    desk = at_desk("partner desk")
    records.card()
    today = timezone.localdate()
    page = desk.post(address(Run, "run_day"), {"business_date": today.isoformat()})
    assert "is not over yet" in page.content.decode()
    desk.post(address(Run, "run_day"), {"business_date": (today - timedelta(days=2)).isoformat()})
    assert Run.objects.get().state == Run.State.DONE
    for nonsense in ("", "2026-02-30", "0001-01-01", "99999-01-01", "\x00"):
        assert desk.post(address(Run, "run_day"), {"business_date": nonsense}).status_code in (200, 302)
