"""What staff did, and their second factors; the chain's functions, triggers and privileges from their own file."""

from pathlib import Path

import django.db.models.deletion
import django.utils.timezone
from django.conf import settings
from django.db import migrations, models

AUDIT = Path(__file__).resolve().parent.parent / "sql" / "audit.sql"


class Migration(migrations.Migration):
    initial = True

    dependencies = [
        ("config", "0002_no_just_in_time_compilation"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="Act",
            fields=[
                ("seq", models.BigIntegerField(primary_key=True, serialize=False, verbose_name="no.")),
                ("recorded_at", models.DateTimeField(verbose_name="when")),
                ("who", models.CharField(blank=True, max_length=150, verbose_name="who")),
                ("address", models.CharField(blank=True, max_length=39, verbose_name="from which address")),
                ("session", models.CharField(blank=True, max_length=16, verbose_name="session")),
                ("verb", models.CharField(max_length=40, verbose_name="what")),
                (
                    "outcome",
                    models.CharField(
                        choices=[("DONE", "done"), ("REFUSED", "refused")], max_length=8, verbose_name="outcome"
                    ),
                ),
                ("kind", models.CharField(blank=True, max_length=60, verbose_name="record")),
                ("object_id", models.CharField(blank=True, max_length=64)),
                ("label", models.CharField(blank=True, max_length=200, verbose_name="its name")),
                ("made", models.CharField(blank=True, max_length=130, verbose_name="made")),
                ("asked", models.JSONField(default=dict, verbose_name="what stood on the form")),
                ("before", models.JSONField(default=dict, verbose_name="before")),
                ("after", models.JSONField(default=dict, verbose_name="after")),
                ("reason", models.TextField(blank=True, verbose_name="reason")),
                ("previous", models.CharField(max_length=64, verbose_name="hash of the row before")),
                ("hash", models.CharField(max_length=64, verbose_name="hash")),
            ],
            options={
                "verbose_name": "act of staff",
                "verbose_name_plural": "acts of staff",
                "indexes": [
                    models.Index(models.F("kind"), models.F("object_id"), models.F("seq"), name="act_by_object"),
                    models.Index(models.F("who"), models.F("seq"), name="act_by_who"),
                    models.Index(models.F("verb"), models.F("seq"), name="act_by_verb"),
                    models.Index(models.F("recorded_at"), name="act_by_moment"),
                    models.Index(models.F("made"), condition=models.Q(("made", ""), _negated=True), name="act_by_made"),
                ],
            },
        ),
        migrations.CreateModel(
            name="RecoveryCode",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("code_hash", models.CharField(max_length=32, unique=True)),
                ("used_at", models.DateTimeField(null=True)),
                (
                    "user",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="+", to=settings.AUTH_USER_MODEL
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="Authenticator",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("name", models.CharField(help_text="The human-readable name of this device.", max_length=64)),
                ("confirmed", models.BooleanField(default=True, help_text="Is this device ready for use?")),
                (
                    "throttling_failure_timestamp",
                    models.DateTimeField(
                        blank=True,
                        default=None,
                        help_text="A timestamp of the last failed verification attempt. Null if last attempt succeeded.",
                        null=True,
                    ),
                ),
                (
                    "throttling_failure_count",
                    models.PositiveIntegerField(default=0, help_text="Number of successive failed attempts."),
                ),
                ("secret_sealed", models.BinaryField()),
                ("last_step", models.BigIntegerField(default=-1)),
                ("recorded_at", models.DateTimeField(default=django.utils.timezone.now)),
                (
                    "user",
                    models.ForeignKey(
                        help_text="The user that this device belongs to.",
                        on_delete=django.db.models.deletion.CASCADE,
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        models.F("user"), models.F("confirmed"), name="one_authenticator_per_person"
                    )
                ],
            },
        ),
        migrations.RunSQL(AUDIT.read_text(encoding="utf-8"), migrations.RunSQL.noop),
    ]
