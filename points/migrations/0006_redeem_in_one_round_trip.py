"""The function that redeems a coupon, from the file that is read as its source."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql" / "redeem.sql"


class Migration(migrations.Migration):
    dependencies = [
        ("points", "0005_sealed_messages_and_guesses_by_age"),
        ("issuing", "0004_events_and_webhooks"),
    ]
    operations = [migrations.RunSQL(SQL.read_text(encoding="utf-8"), "DROP FUNCTION points_redeem")]
