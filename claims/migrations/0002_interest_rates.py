"""Rates as the central bank published them: the one-year loan prime rate since it replaced the benchmark lending
rate, and the one-year deposit benchmark. Later ones are entered by staff."""

from datetime import date
from decimal import Decimal

from django.db import migrations

LPR_1Y = {
    date(2019, 8, 20): "0.0425",
    date(2019, 9, 20): "0.0420",
    date(2019, 11, 20): "0.0415",
    date(2020, 2, 20): "0.0405",
    date(2020, 4, 20): "0.0385",
    date(2021, 12, 20): "0.0380",
    date(2022, 1, 20): "0.0370",
    date(2022, 8, 22): "0.0365",
    date(2023, 6, 20): "0.0355",
    date(2023, 8, 21): "0.0345",
    date(2024, 7, 22): "0.0335",
    date(2024, 10, 21): "0.0310",
    date(2025, 5, 20): "0.0300",
}
DEPOSIT_1Y = {date(2015, 10, 24): "0.0150"}


def seed(apps, schema_editor):
    rows = apps.get_model("claims", "InterestRate").objects.using(schema_editor.connection.alias)
    for kind, rates in (("LPR_1Y", LPR_1Y), ("DEPOSIT_1Y", DEPOSIT_1Y)):
        for valid_from_date, rate in rates.items():
            rows.get_or_create(kind=kind, valid_from_date=valid_from_date, defaults={"annual_rate": Decimal(rate)})


class Migration(migrations.Migration):
    dependencies = [("claims", "0001_initial")]
    operations = [migrations.RunPython(seed, migrations.RunPython.noop)]
