"""The national measures on single-purpose prepaid cards, in force since 2012-11-01 (商务部令 2012 第 9 号)."""

from datetime import date

from django.db import migrations


def seed(apps, schema_editor):
    regulation = apps.get_model("issuing", "Regulation")
    # The figures are the model's defaults; from the start of the calendar the country has had no others.
    regulation.objects.using(schema_editor.connection.alias).get_or_create(region="", valid_from_date=date(2012, 11, 1))


class Migration(migrations.Migration):
    dependencies = [("issuing", "0001_initial")]
    operations = [migrations.RunPython(seed, migrations.RunPython.noop)]
