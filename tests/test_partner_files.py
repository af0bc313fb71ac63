"""A partner's file is kept whole, in bounded pieces: it can be downloaded, and compared again without the partner."""

import hashlib
import io
import os
import zlib
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from django.urls import reverse
from standardwebhooks.webhooks import Webhook

from config import messages
from insurance import reconciliation
from insurance.models import Policy
from prepaid import files
from prepaid.models import PartnerFile, PartnerFilePart, Run
from tests import cards
from tests.admin.conftest import person, signed_in
from tests.partners import insurer as partner
from tests.partners import partner_process
from tests.test_reconciliation_insurer import TODAY, _spoken_to, altered, breaks, enrolled, program, reconciled, theirs

__all__ = ["_spoken_to", "partner", "partner_process", "program"]

pytestmark = pytest.mark.django_db

LATER = reconciliation.reconciliation.span(TODAY)[1] + timedelta(hours=3)


@pytest.fixture
def run() -> Run:
    return Run.objects.create(
        partner=Run.Partner.INSURER, business_date=date(2026, 1, 1), state=Run.State.DONE, started_at=cards.NOW
    )


def kept(run: Run, content: bytes) -> PartnerFile:
    return files.keep(run, io.BytesIO(content), "m-1")


def test_a_file_is_kept_in_pieces_and_given_back_byte_by_byte(run):
    content = os.urandom(files.PIECE) + b"D,x\n" * files.PIECE + b"the end"
    row = kept(run, content)
    assert (row.size, row.parts, row.sha256) == (len(content), 6, hashlib.sha256(content).hexdigest())
    sizes = [len(part.content) for part in PartnerFilePart.objects.order_by("seq")]
    assert sizes[0] > files.PIECE * 0.99 > 100 * sizes[1]
    assert max(map(len, files.pieces(row))) == files.PIECE
    assert b"".join(files.pieces(row)) == content
    with files.opened(row) as file:
        assert file.read() == content
    assert kept(run, b"").size == 0


@pytest.mark.parametrize("harm", ["delete", "change", "spoil"])
def test_a_copy_that_is_not_what_was_received_says_so(run, harm):
    row = kept(run, b"D,x\n" * files.PIECE)
    part = PartnerFilePart.objects.filter(seq=2)
    if harm == "delete":
        part.delete()
    else:
        part.update(content=zlib.compress(b"D,y\n") if harm == "change" else b"spoilt")
    with pytest.raises(files.FileLost), files.opened(row):
        pass


def test_the_newest_files_of_a_day_stay(run):
    rows = [kept(run, f"{n}".encode()) for n in range(files.MOST_FILES + 2)]
    assert set(PartnerFile.objects.all()) == set(rows[2:])
    assert PartnerFilePart.objects.count() == files.MOST_FILES
    assert files.last(run) == rows[-1]


def test_what_was_fetched_is_kept_and_compared_again_without_the_insurer(program, partner, settings):
    [policy] = enrolled(program, 1)
    theirs(partner, "UPDATE insurer_item SET amount = amount + 1 WHERE request_no = %(no)s", policy)
    run = reconciled()
    assert breaks(run) == [("AMOUNT_DIFFERS", policy.request_no)]
    settings.INSURER_URL = "http://127.0.0.1:1/insurer/"
    before = (run.compared, run.totals)
    again = reconciliation.bordereau_again(run=run, now=LATER)
    assert (again.state, again.compared, again.totals) == (Run.State.DONE, *before)
    # Our side is as it stands now, theirs as it was received.
    run.breaks.all().delete()
    Policy.objects.update(sum_insured=policy.sum_insured + 1)
    reconciliation.bordereau_again(run=run, now=LATER)
    assert breaks(run) == []
    assert PartnerFile.objects.count() == 1


def test_a_damaged_file_is_kept_as_it_came(program, partner, monkeypatch):
    enrolled(program, 1)
    altered(monkeypatch, lambda raw: raw.replace(b",7306,", b",7307,"))
    run = reconciled()
    assert run.state == Run.State.FAILED
    assert b",7307," in b"".join(files.pieces(files.last(run)))
    run = reconciliation.bordereau_again(run=run, now=LATER)
    assert (run.state, "the hash differs" in run.problem) == (Run.State.FAILED, True)


def test_without_a_kept_file_there_is_nothing_to_compare(run):
    with pytest.raises(files.NoFileKept):
        reconciliation.bordereau_again(run=run, now=LATER)
    run.refresh_from_db()
    assert run.state == Run.State.DONE


def written(run: Run, key: str, at: datetime) -> bytes:
    """A file without rows, signed at a moment."""
    header = f"H,1,{run.business_date},m-1\n".encode()
    trailer = f"T,0,,{hashlib.sha256(header).hexdigest()}\n"
    return header + f"{trailer}S,s-1,{int(at.timestamp())},{Webhook(key).sign('s-1', at, trailer)}\n".encode()


def test_a_signature_grows_old_with_the_copy_and_a_strange_one_stays_strange(run, partner, settings):
    long_ago = datetime(2026, 1, 2, 1, 0, tzinfo=UTC)
    kept(run, written(run, settings.INSURER_KEYS[0], long_ago))
    assert reconciliation.bordereau_again(run=run, now=LATER).state == Run.State.DONE
    kept(run, written(run, "c3RyYW5nZXI=", long_ago))
    failed: Any = reconciliation.bordereau_again(run=run, now=LATER)
    assert (failed.state, "the signature" in failed.problem) == (Run.State.FAILED, True)


@pytest.mark.parametrize("change", [{"webhook-timestamp": "x"}, {"webhook-id": "s-2"}, {"webhook-signature": "v1,é"}])
def test_an_old_signature_is_over_its_id_and_its_moment(change):
    at = datetime(2026, 1, 2, 1, 0, tzinfo=UTC)
    key = "c3RyYW5nZXI="
    headers = {
        "webhook-id": "s-1",
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(key).sign("s-1", at, "T"),
    }
    assert messages.was_signed(keys=["b3RoZXI=", key], headers=headers, content=b"T")
    assert not messages.was_signed(keys=[key], headers=headers, content=b"U")
    assert not messages.was_signed(keys=[key], headers=headers | change, content=b"T")


def test_staff_with_the_role_download_it_and_compare_it_again(program, partner):
    enrolled(program, 1)
    run = reconciled()
    row = files.last(run)
    desk = signed_in(person("partner desk"))
    page = desk.get(reverse("admin:prepaid_run_change", args=[run.pk])).content.decode()
    assert row.sha256 in page
    answer = desk.post(reverse("admin:prepaid_partnerfile_download", args=[row.pk]))
    content = b"".join(answer.streaming_content)
    assert f'filename="insurer-{TODAY}-' in answer.headers["Content-Disposition"]
    assert hashlib.sha256(content).hexdigest() == row.sha256
    auditor = signed_in(person("auditor"))
    assert auditor.post(reverse("admin:prepaid_partnerfile_download", args=[row.pk])).status_code == 403
    assert auditor.post(reverse("admin:prepaid_run_compare_kept", args=[run.pk])).status_code == 403
