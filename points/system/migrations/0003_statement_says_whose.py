"""What a reversal or return speaks of stands in its row, and so in the statement; answers say on which date they count."""

from pathlib import Path

from django.db import migrations, models

SQL = Path(__file__).resolve().parent.parent / "sql" / "posting.sql"

# Where 0002 ran before these functions had a file of their own.
DROP_EARLIER = """
DROP FUNCTION IF EXISTS points_system_post(text, text, text, text, jsonb, bytea, text, timestamptz, date, timestamptz);
DROP FUNCTION IF EXISTS points_system_reverse(bigint, text, jsonb, timestamptz);
DROP FUNCTION IF EXISTS points_system_return(bigint, jsonb, timestamptz);
"""


class Migration(migrations.Migration):
    dependencies = [("points_system", "0002_functions")]
    operations = [
        migrations.AddField(
            model_name="request",
            name="original",
            field=models.CharField(blank=True, default="", max_length=64, verbose_name="speaks of"),
            preserve_default=False,
        ),
        migrations.RunSQL(DROP_EARLIER + SQL.read_text(encoding="utf-8"), migrations.RunSQL.noop),
    ]
