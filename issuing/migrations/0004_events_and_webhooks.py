"""Events and webhooks: what happened to what is a merchant's, where he is told of it, and what he was told."""

import uuid
from pathlib import Path

import django.contrib.postgres.fields
import django.contrib.postgres.indexes
import django.db.models.deletion
from django.db import migrations, models

import config.ids
import issuing.models

SQL = Path(__file__).resolve().parent.parent / "sql"
BEFORE, AFTER = ((SQL / name).read_text(encoding="utf-8") for name in ("events.sql", "events_append_only.sql"))


class Migration(migrations.Migration):
    dependencies = [
        ("issuing", "0003_settled_line"),
        ("config", "0001_application_role"),
    ]

    operations = [
        migrations.RunSQL(BEFORE, migrations.RunSQL.noop),
        migrations.CreateModel(
            name="Event",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        db_default=models.Func(function="new_id"), editable=False, primary_key=True, serialize=False
                    ),
                ),
                (
                    "type",
                    models.CharField(
                        choices=[
                            ("card.opened", "card opened"),
                            ("card.topped_up", "card topped up"),
                            ("card.frozen", "card frozen"),
                            ("card.unfrozen", "card unfrozen"),
                            ("card.closed", "card closed"),
                            ("payment.recorded", "payment recorded"),
                            ("refund.recorded", "refund recorded"),
                            ("policy.accepted", "policy accepted"),
                            ("policy.declined", "policy declined"),
                            ("claim.filed", "claim filed"),
                            ("claim.approved", "claim approved"),
                            ("claim.rejected", "claim rejected"),
                            ("claim.paid", "claim paid"),
                            ("exchange.issued", "exchange issued"),
                            ("exchange.rejected", "exchange rejected"),
                            ("exchange.reversed", "exchange reversed"),
                            ("coupon.redeemed", "coupon redeemed"),
                            ("webhook.ping", "test of a webhook"),
                        ],
                        max_length=20,
                        verbose_name="type",
                    ),
                ),
                ("subject_id", models.UUIDField(verbose_name="subject")),
                ("card_id", models.UUIDField(null=True, verbose_name="card")),
                ("state", models.CharField(blank=True, default="", max_length=20, verbose_name="state")),
                ("amount", models.BigIntegerField(null=True, verbose_name="amount")),
                ("recorded_at", models.DateTimeField(verbose_name="recorded at")),
                (
                    "xid",
                    issuing.models.TransactionNumber(
                        db_default=models.Func(function="pg_current_xact_id"), editable=False
                    ),
                ),
                (
                    "merchant",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="issuing.merchant",
                        verbose_name="merchant",
                    ),
                ),
            ],
            options={
                "verbose_name": "event",
                "verbose_name_plural": "events",
            },
        ),
        migrations.CreateModel(
            name="WebhookDelivery",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        db_default=models.Func(function="new_id"), editable=False, primary_key=True, serialize=False
                    ),
                ),
                (
                    "state",
                    models.CharField(
                        choices=[("PENDING", "to be delivered"), ("DELIVERED", "delivered"), ("FAILED", "failed")],
                        default="PENDING",
                        max_length=10,
                        verbose_name="state",
                    ),
                ),
                ("attempts", models.PositiveSmallIntegerField(default=0, verbose_name="attempts")),
                ("due_at", models.DateTimeField(null=True, verbose_name="due at")),
                ("problem", models.CharField(blank=True, default="", max_length=200, verbose_name="problem")),
                ("recorded_at", models.DateTimeField(verbose_name="recorded at")),
                ("delivered_at", models.DateTimeField(null=True, verbose_name="delivered at")),
                (
                    "event",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="deliveries",
                        to="issuing.event",
                        verbose_name="event",
                    ),
                ),
                (
                    "merchant",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="issuing.merchant",
                        verbose_name="merchant",
                    ),
                ),
            ],
            options={
                "verbose_name": "webhook delivery",
                "verbose_name_plural": "webhook deliveries",
            },
        ),
        migrations.CreateModel(
            name="WebhookAttempt",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("url", models.CharField(max_length=500, verbose_name="URL")),
                ("status", models.PositiveSmallIntegerField(null=True, verbose_name="HTTP status")),
                ("failure", models.CharField(blank=True, max_length=20, verbose_name="failure")),
                ("detail", models.CharField(blank=True, max_length=200, verbose_name="detail")),
                ("answer", models.TextField(blank=True, verbose_name="answer")),
                ("duration_ms", models.PositiveIntegerField(verbose_name="milliseconds")),
                ("recorded_at", models.DateTimeField(verbose_name="recorded at")),
                (
                    "delivery",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="tries",
                        to="issuing.webhookdelivery",
                        verbose_name="webhook delivery",
                    ),
                ),
            ],
            options={
                "verbose_name": "webhook attempt",
                "verbose_name_plural": "webhook attempts",
            },
        ),
        migrations.CreateModel(
            name="WebhookEndpoint",
            fields=[
                ("id", models.UUIDField(default=config.ids.new_id, editable=False, primary_key=True, serialize=False)),
                ("url", models.CharField(max_length=500, verbose_name="URL")),
                ("description", models.CharField(blank=True, max_length=100, verbose_name="description")),
                (
                    "types",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.CharField(
                            choices=[
                                ("card.opened", "card opened"),
                                ("card.topped_up", "card topped up"),
                                ("card.frozen", "card frozen"),
                                ("card.unfrozen", "card unfrozen"),
                                ("card.closed", "card closed"),
                                ("payment.recorded", "payment recorded"),
                                ("refund.recorded", "refund recorded"),
                                ("policy.accepted", "policy accepted"),
                                ("policy.declined", "policy declined"),
                                ("claim.filed", "claim filed"),
                                ("claim.approved", "claim approved"),
                                ("claim.rejected", "claim rejected"),
                                ("claim.paid", "claim paid"),
                                ("exchange.issued", "exchange issued"),
                                ("exchange.rejected", "exchange rejected"),
                                ("exchange.reversed", "exchange reversed"),
                                ("coupon.redeemed", "coupon redeemed"),
                                ("webhook.ping", "test of a webhook"),
                            ],
                            max_length=20,
                        ),
                        default=list,
                        size=None,
                        verbose_name="events",
                    ),
                ),
                ("is_live", models.BooleanField(default=False, verbose_name="live")),
                ("secret_sealed", models.BinaryField()),
                ("old_secret_sealed", models.BinaryField(null=True)),
                ("old_secret_until_at", models.DateTimeField(null=True, verbose_name="old secret until")),
                (
                    "state",
                    models.CharField(
                        choices=[("ACTIVE", "active"), ("PAUSED", "paused"), ("DISABLED", "removed")],
                        default="ACTIVE",
                        editable=False,
                        max_length=8,
                        verbose_name="state",
                    ),
                ),
                (
                    "paused_because",
                    models.CharField(
                        blank=True,
                        choices=[
                            ("ASKED", "asked for"),
                            ("FAILING", "nothing was accepted for days"),
                            ("GONE", "it said that it is gone (410)"),
                        ],
                        max_length=8,
                        verbose_name="paused because",
                    ),
                ),
                ("paused_at", models.DateTimeField(null=True, verbose_name="paused at")),
                ("made_by", models.CharField(max_length=60, verbose_name="made by")),
                ("recorded_at", models.DateTimeField(verbose_name="recorded at")),
                (
                    "cursor_xid",
                    issuing.models.TransactionNumber(db_default=issuing.models.SettledBefore(), editable=False),
                ),
                (
                    "cursor_id",
                    models.UUIDField(default=uuid.UUID("00000000-0000-0000-0000-000000000000"), editable=False),
                ),
                ("failures", models.PositiveIntegerField(default=0, verbose_name="failures in a row")),
                ("failing_since_at", models.DateTimeField(null=True, verbose_name="failing since")),
                ("resting_until_at", models.DateTimeField(null=True, verbose_name="left alone until")),
                ("attempted_at", models.DateTimeField(null=True, verbose_name="last attempt")),
                (
                    "merchant",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, to="issuing.merchant", verbose_name="merchant"
                    ),
                ),
            ],
            options={
                "verbose_name": "webhook endpoint",
                "verbose_name_plural": "webhook endpoints",
            },
        ),
        migrations.AddField(
            model_name="webhookdelivery",
            name="endpoint",
            field=models.ForeignKey(
                db_index=False,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="deliveries",
                to="issuing.webhookendpoint",
                verbose_name="webhook endpoint",
            ),
        ),
        migrations.AddIndex(
            model_name="event",
            index=models.Index(
                models.F("merchant"), models.F("xid"), models.F("id"), name="events_of_a_merchant_in_order"
            ),
        ),
        migrations.AddIndex(
            model_name="event",
            index=django.contrib.postgres.indexes.BrinIndex(models.F("recorded_at"), name="events_by_moment"),
        ),
        migrations.AddConstraint(
            model_name="webhookendpoint",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("old_secret_sealed__isnull", True), ("old_secret_until_at__isnull", True)),
                    models.Q(("old_secret_sealed__isnull", False), ("old_secret_until_at__isnull", False)),
                    _connector="OR",
                ),
                name="an_old_secret_has_an_end",
            ),
        ),
        migrations.AddConstraint(
            model_name="webhookendpoint",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("state", "PAUSED"), _negated=True),
                    models.Q(("paused_at__isnull", False), models.Q(("paused_because", ""), _negated=True)),
                    _connector="OR",
                ),
                name="a_pause_has_a_reason_and_a_moment",
            ),
        ),
        migrations.AddIndex(
            model_name="webhookdelivery",
            index=models.Index(
                models.F("endpoint"),
                models.F("due_at"),
                condition=models.Q(("due_at__isnull", False)),
                name="deliveries_due",
            ),
        ),
        migrations.AddConstraint(
            model_name="webhookdelivery",
            constraint=models.UniqueConstraint(
                models.F("endpoint"), models.F("event"), name="one_delivery_per_endpoint_and_event"
            ),
        ),
        migrations.AddConstraint(
            model_name="webhookdelivery",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("due_at__isnull", False), ("state", "PENDING")),
                    models.Q(models.Q(("state", "PENDING"), _negated=True), ("due_at__isnull", True)),
                    _connector="OR",
                ),
                name="a_pending_delivery_is_due",
            ),
        ),
        migrations.AddConstraint(
            model_name="webhookdelivery",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("state", "DELIVERED"), _negated=True), ("delivered_at__isnull", False), _connector="OR"
                ),
                name="a_delivered_one_has_its_moment",
            ),
        ),
        migrations.RunSQL(AFTER, migrations.RunSQL.noop),
    ]
