"""Lists as files: written in slices by the clock, masked by role, harmless to spreadsheets, gone after their time."""

import csv
import fcntl
import io
import os
import stat
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from zipfile import ZipFile

import pytest
from django.contrib.auth.models import Group, User
from django.db import IntegrityError, transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from config import exports, roles, spreadsheets
from config.models import Act, Export
from config.states import IllegalMove
from issuing import numbering
from issuing.models import Merchant
from prepaid import processing
from prepaid.models import Card, NetworkAccount
from tests import cards
from tests.admin import records
from tests.admin.conftest import person, signed_in
from tests.admin.test_lists import open_many

pytestmark = pytest.mark.django_db(databases=["default", "owner"])

State = Export.State


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, settings: Any) -> None:
    settings.VAR_DIR = tmp_path


def ordered(browser: Client, model: str, *, format: str = "CSV", **query: str) -> Export:
    address = reverse(f"admin:{model}_export", query=query)
    assert browser.get(address).status_code == 200
    assert not Export.objects.filter(state=State.RUNNING).exists(), "looking orders nothing"
    page = browser.post(address, {"format": format})
    assert page.status_code == 302, page.content.decode()
    return Export.objects.order_by("-pk").first()  # type: ignore[return-value]


def written(export: Export) -> Export:
    """As the clock does it: one slice after the other."""
    while exports.write_slice(export, now=timezone.now()):
        pass
    export.refresh_from_db()
    return export


def download(browser: Client, export: Export) -> bytes:
    page = browser.post(reverse("admin:config_export_download", args=[export.pk]))
    assert page.status_code == 200
    assert "no-store" in page.headers["Cache-Control"]
    return b"".join(page.streaming_content)  # type: ignore[arg-type]


def table(content: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(content.decode("utf-8-sig"))))


def sheet(content: bytes) -> list[list[str]]:
    with ZipFile(io.BytesIO(content)) as book:
        assert {"[Content_Types].xml", "_rels/.rels", "xl/workbook.xml"} <= set(book.namelist())
        for name in book.namelist():
            ElementTree.fromstring(book.read(name))
        root = ElementTree.fromstring(book.read("xl/worksheets/sheet1.xml"))
    mark = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
    return [["".join(cell.itertext()) for cell in row.iter(f"{mark}c")] for row in root.iter(f"{mark}row")]


@pytest.mark.parametrize(("format", "read"), [("CSV", table), ("XLSX", sheet)])
def test_a_filtered_list_becomes_a_file_of_what_it_shows(
    at_desk: Any, format: str, read: Callable[[bytes], list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "SLICE", 2)
    found = open_many(6)
    for card in found[:5]:
        processing.freeze(card=card, reason="x", by="staff:x", now=timezone.now())
    clerk = at_desk("clerk")
    export = ordered(clerk, "prepaid_card", format=format, state__exact="FROZEN")
    assert exports.carry_on(now=timezone.now()) == 2
    export.refresh_from_db()
    assert (export.state, export.rows, export.total) == (State.DONE, 5, 5)
    content = download(clerk, export)
    head, *rows = read(content)
    assert head == ["card", "merchant", "card program", "holder", "state", "usable", "opened at"]
    newest_first = sorted((card.pk for card in found[:5]), reverse=True)
    assert [row[0] for row in rows] == [f"•••• {Card.objects.get(pk=key).last4}" for key in newest_first]
    assert {tuple(row[3:6]) for row in rows} == {("王**", "frozen", "999.00")}
    assert numbering.unseal(found[0].number_sealed).encode() not in content
    acts = Act.objects.filter(kind="config.export", object_id=str(export.pk)).order_by("seq")
    assert [act.verb for act in acts] == ["order_export", "download"]
    assert acts[0].asked["filters"] == "state__exact=FROZEN"


def test_the_file_is_readable_by_its_owner_alone(root: Client) -> None:
    for format in Export.Format.values:
        export = written(ordered(root, "issuing_merchant", format=format))
        assert stat.S_IMODE(os.stat(exports.path_of(export)).st_mode) == 0o600
    assert stat.S_IMODE(exports.folder().stat().st_mode) == 0o700


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_is_run_as_a_formula(start: str) -> None:
    text = f"{start}cmd|' /C calc'!A0"
    [[cell, number]] = table(spreadsheets.csv_rows([[text, -5]]))
    assert (cell, number) == (f"'{text}", "-5")
    row = ElementTree.fromstring(spreadsheets.xlsx_rows([[text, -5]]))
    assert ["".join(cell.itertext()) for cell in row] == [f"'{text}", "-5"]


def test_a_name_that_is_a_formula_is_written_as_text(root: Client) -> None:
    Merchant.objects.filter(pk=cards.merchant().pk).update(name="=1+1")
    content = download(root, written(ordered(root, "issuing_merchant")))
    assert "'=1+1" in table(content)[1]


def test_what_xml_cannot_hold_is_replaced() -> None:
    row = ElementTree.fromstring(spreadsheets.xlsx_rows([["a\x01<&>\ud800\uffff", None, ""]]))
    assert ["".join(cell.itertext()) for cell in row] == ["a�<&>��", "", ""]


def test_a_worker_that_died_in_a_slice_leaves_no_row_twice(root: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "SLICE", 2)
    open_many(5)
    export = ordered(root, "prepaid_card")
    exports.write_slice(export, now=timezone.now())
    # Written, and killed before it was told; and the half of a line beyond.
    with exports.path_of(export).open("ab") as file:
        file.write(b"a row of the slice that was not told\r\nhalf a r")
    rows = table(download(root, written(export)))
    assert len(rows) == 6
    assert len({tuple(row) for row in rows}) == 6


def test_a_file_that_is_not_there_is_begun_anew(root: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "SLICE", 2)
    open_many(3)
    export = ordered(root, "prepaid_card")
    exports.write_slice(export, now=timezone.now())
    exports.path_of(export).unlink()
    assert len(table(download(root, written(export)))) == 4


def test_a_column_that_is_not_for_the_role_is_in_no_file_list_or_record(at_desk: Any) -> None:
    records.card()
    account = NetworkAccount.objects.get()
    clerk, desk = at_desk("clerk"), at_desk("partner desk")
    for browser, sees in ((clerk, True), (desk, False)):
        content = download(browser, written(ordered(browser, "prepaid_networkaccount")))
        assert (b"138****0001" in content) is sees
        for page in ("changelist", "change"):
            arguments = [account.pk] if page == "change" else []
            text = browser.get(reverse(f"admin:prepaid_networkaccount_{page}", args=arguments)).content.decode()
            assert ("138****0001" in text) is sees
        card_page = browser.get(reverse("admin:prepaid_card_change", args=[Card.objects.get().pk])).content.decode()
        assert ("138****0001" in card_page) is sees


def test_only_its_maker_sees_and_downloads_a_file(root: Client, at_desk: Any) -> None:
    cards.merchant()
    export = written(ordered(at_desk("clerk"), "issuing_merchant"))
    for other in (root, at_desk("auditor")):
        for page in ("change", "download", "cancel", "history"):
            answer = other.post(reverse(f"admin:config_export_{page}", args=[export.pk]))
            assert answer.status_code == 302
        assert other.get(reverse("admin:config_export_changelist")).context["cl"].result_count == 0


def test_a_list_that_may_not_be_seen_may_not_be_exported(at_desk: Any) -> None:
    clerk = at_desk("clerk")
    assert clerk.get(reverse("admin:config_act_export")).status_code == 403
    assert clerk.post(reverse("admin:config_act_export"), {"format": "CSV"}).status_code == 403
    assert not Export.objects.exists()


def test_rights_that_were_taken_away_count_when_it_is_written() -> None:
    cards.merchant()
    user = person("clerk")
    export = ordered(signed_in(user), "issuing_merchant")
    user.groups.clear()
    assert not exports.write_slice(export, now=timezone.now())
    export.refresh_from_db()
    assert (export.state, export.due_at) == (State.FAILED, None)
    assert "You may no longer do this" in export.problem
    exports.forget(now=timezone.now())
    assert list(exports.folder().iterdir()) == []


@pytest.mark.parametrize("ended", ["cancelled", "expired"])
def test_what_is_cancelled_or_past_its_time_is_deleted(root: Client, ended: str) -> None:
    cards.merchant()
    export = ordered(root, "issuing_merchant", format="XLSX")
    if ended == "cancelled":
        with exports._locked_file(export) as file:
            file.write(b"half of it")
        root.post(reverse("admin:config_export_cancel", args=[export.pk]))
        assert not exports.write_slice(export, now=timezone.now())
        now = timezone.now()
    else:
        written(export)
        assert exports.forget(now=timezone.now()) == 1  # the sheet that was zipped
        assert exports.path_of(export).exists()
        now = timezone.now() + timedelta(hours=24, minutes=1)
        with pytest.raises(exports.FileGone):
            exports.opened(export=export, now=now)
    exports.forget(now=now)
    assert list(exports.folder().iterdir()) == []
    export.refresh_from_db()
    assert export.state == (State.CANCELLED if ended == "cancelled" else State.EXPIRED)
    page = root.post(reverse("admin:config_export_download", args=[export.pk]), follow=True)
    assert "no longer possible" in page.content.decode()


def test_one_that_was_cancelled_while_its_last_slice_was_written_stays_cancelled(
    root: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards.merchant()
    export = ordered(root, "issuing_merchant")
    read = exports._next_rows

    def cancelled_meanwhile(one: Export) -> Any:
        exports.cancel(export=Export.objects.get(pk=one.pk), now=timezone.now())
        return read(one)

    monkeypatch.setattr(exports, "_next_rows", cancelled_meanwhile)
    exports.write_slice(export, now=timezone.now())
    export.refresh_from_db()
    assert export.state == State.CANCELLED
    with pytest.raises(IllegalMove):
        exports.cancel(export=export, now=timezone.now())


def test_what_was_searched_for_is_not_kept(root: Client) -> None:
    mine, _other = open_many(2)
    number = numbering.unseal(mine.number_sealed)
    export = ordered(root, "prepaid_card", q=number)
    assert number not in str(Export.objects.filter(pk=export.pk).values().get())
    assert not Act.objects.filter(asked__filters__contains=number).exists()
    assert len(table(download(root, written(export)))) == 2


def test_a_file_is_in_its_makers_language_and_time_zone(root: Client) -> None:
    cards.merchant()
    root.post("/i18n/setlang/", {"language": "zh-hans", "next": "/admin/"})
    export = ordered(root, "issuing_merchant")
    assert (export.language, export.time_zone) == ("zh-hans", "Asia/Shanghai")
    assert "名称" in table(download(root, written(export)))[0]


@pytest.mark.parametrize("query", ["id_from=x", "id_from=%00", "state__exact=%00"])
def test_a_list_that_cannot_be_read_is_not_exported(root: Client, query: str) -> None:
    answer = root.post(f"{reverse('admin:prepaid_card_export')}?{query}", {"format": "CSV"})
    assert answer.status_code == 302
    assert not Export.objects.exists()


def test_an_export_that_would_lie_there_for_ever_is_refused_by_the_database(root: Client) -> None:
    export = ordered(root, "issuing_merchant")
    with pytest.raises(IntegrityError, match="an_export_that_is_done_expires"), transaction.atomic():
        Export.objects.filter(pk=export.pk).update(state=State.DONE)


def test_a_sheet_that_would_not_hold_them_says_so(root: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spreadsheets, "MOST_ROWS", 2)
    open_many(2)
    export = written(ordered(root, "prepaid_card", format="XLSX"))
    assert export.state == State.FAILED
    assert "choose CSV" in export.problem


def test_two_workers_never_write_at_once(root: Client) -> None:
    """Whoever was thought dead and still holds the file keeps the next one waiting."""
    export = ordered(root, "issuing_merchant")
    path = exports.path_of(export)
    with exports._locked_file(export), path.open("rb") as another, pytest.raises(BlockingIOError):
        fcntl.flock(another, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_everybody_may_do_with_their_own_what_the_table_says() -> None:
    roles.apply()
    assert {group.name for group in Group.objects.filter(permissions__codename="view_export")} == set(roles.ROLES)
    assert not User.objects.filter(is_superuser=True).exists()
