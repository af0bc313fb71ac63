"""Every text of ours can be read in Chinese, by the words of one glossary."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from babel.messages.catalog import Catalog
from babel.messages.extract import DEFAULT_KEYWORDS, extract
from babel.messages.pofile import read_po
from django.conf import settings
from django.test import Client
from django.urls import reverse
from django.utils import translation
from django.utils.translation.template import templatize

from config import translations
from tests.admin import records

ROOMS = ("config", "issuing", "prepaid", "insurance", "claims", "points", "templates")
KEYWORDS = {
    **DEFAULT_KEYWORDS,
    "gettext_lazy": None,
    "gettext_noop": None,
    "ngettext_lazy": (1, 2),
    "pgettext_lazy": ((1, "c"), 2),
}
Said = tuple[str | None, str]


def texts() -> Iterator[tuple[Said, Path]]:
    """Every text that is marked for translation, with its context, and where."""
    for room in ROOMS:
        for path in sorted((settings.BASE_DIR / room).rglob("*")):
            if path.suffix not in (".py", ".html") or "migrations" in path.parts:
                continue
            source = path.read_text(encoding="utf-8")
            if path.suffix == ".html":
                source = templatize(source, origin=str(path))
            for _line, message, _comments, context in extract("python", io.BytesIO(source.encode()), keywords=KEYWORDS):
                text = message[0] if isinstance(message, tuple) else message
                if text:
                    yield (context, text), path


@pytest.fixture(scope="module")
def catalogue() -> Catalog:
    with (settings.BASE_DIR / "config/locale/zh_Hans/LC_MESSAGES/django.po").open("rb") as file:
        return read_po(file, locale="zh_Hans")


def test_every_text_has_its_chinese(catalogue: Catalog) -> None:
    missing = []
    for (context, text), path in texts():
        message = catalogue.get(text, context)
        words = message.string if message else ""
        if message is None or message.fuzzy or not (all(words) if isinstance(words, tuple) else words):
            missing.append(f"{path.relative_to(settings.BASE_DIR)}: {text!r}")
    assert not missing


def test_the_catalogue_holds_nothing_that_is_said_no_more(catalogue: Catalog) -> None:
    said = {key for key, _path in texts()}
    ids = {
        (message.context, message.id[0] if isinstance(message.id, tuple) else message.id)
        for message in catalogue
        if message.id
    }
    assert ids - said == set()
    assert not catalogue.obsolete


def test_the_parameters_of_a_text_stand_in_its_chinese(catalogue: Catalog) -> None:
    faults = [(message.id, str(fault)) for message in catalogue for fault in message.check()]
    assert faults == []


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("merchant", "商户"),
        ("card program", "卡产品"),
        ("sub-card", "子卡"),
        ("network account", "网络账户"),
        ("holder", "持卡人"),
        ("load", "充值"),
        ("refundable principal", "应退本金"),
        ("policy", "保单"),
        ("endorsement", "批单"),
        ("sum insured", "保险金额"),
        ("premium", "保险费"),
        ("insured event", "保险事故"),
        ("loss date", "出险日"),
        ("claim", "索赔"),
        ("compensation", "赔付"),
        ("recovery", "追偿"),
        ("reconciliation", "对账"),
        ("break", "差异"),
        ("business date", "营业日"),
        ("refund", "退货"),
        ("reverse", "冲正"),
    ],
)
def test_one_word_for_one_idea(catalogue: Catalog, english: str, chinese: str) -> None:
    message = catalogue.get(english)
    assert message is not None
    assert message.string == chinese


@pytest.mark.django_db(databases=["default", "owner"])
def test_staff_switch_to_chinese_and_back(root: Client) -> None:
    translations.compile_all()
    # What Django has read already it keeps; the catalogue may have been compiled just now.
    translation.trans_real._translations.clear()  # type: ignore[attr-defined]
    card = records.card()
    address = reverse("admin:prepaid_card_change", args=[card.pk])
    assert "refundable principal" in root.get(address).content.decode()
    root.post("/i18n/setlang/", {"language": "zh-hans", "next": address})
    page = root.get(address).content.decode()
    assert "应退本金" in page
    assert "¥1,000.00" in page
    root.post("/i18n/setlang/", {"language": "en", "next": address})
    assert "应退本金" not in root.get(address).content.decode()
