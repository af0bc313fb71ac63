"""Less to write when an exchange is asked about and settled."""

import django.contrib.postgres.fields
import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

import config.handshakes


class Migration(migrations.Migration):
    dependencies = [
        ("issuing", "0007_test_clock"),
        ("points", "0013_card_page"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="Inquiry",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("exchanges", django.contrib.postgres.fields.ArrayField(base_field=models.UUIDField(), size=None)),
                ("until_at", models.DateTimeField()),
            ],
            options={
                "verbose_name": "inquiry",
                "verbose_name_plural": "inquiries",
            },
        ),
        migrations.RemoveConstraint(
            model_name="coupon",
            name="one_coupon_per_exchange_and_ordinal",
        ),
        migrations.RemoveConstraint(
            model_name="coupon",
            name="one_live_coupon_per_ordinal",
        ),
        migrations.AddField(
            model_name="coupon",
            name="replaced",
            field=models.GeneratedField(
                db_persist=True,
                expression=models.Case(
                    models.When(state="REISSUED", then=models.F("generation")), default=models.Value(0)
                ),
                output_field=models.PositiveSmallIntegerField(),
            ),
        ),
        migrations.AlterField(
            model_name="coupon",
            name="account",
            field=models.ForeignKey(
                db_index=False,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="coupons",
                to="points.pointsaccount",
                verbose_name="points account",
            ),
        ),
        migrations.AlterField(
            model_name="coupon",
            name="points_return",
            field=models.ForeignKey(
                db_index=False,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="coupons",
                to="points.pointsreturn",
                verbose_name="return",
            ),
        ),
        migrations.AlterField(
            model_name="coupon",
            name="product",
            field=models.ForeignKey(
                db_index=False,
                on_delete=django.db.models.deletion.PROTECT,
                to="points.couponproduct",
                verbose_name="coupon product",
            ),
        ),
        migrations.AlterField(
            model_name="exchange",
            name="request_no",
            field=models.CharField(default=config.handshakes.new_request_no, editable=False, max_length=22),
        ),
        migrations.AddIndex(
            model_name="coupon",
            index=models.Index(
                models.F("points_return"),
                condition=models.Q(("points_return__isnull", False)),
                name="coupons_of_a_return",
            ),
        ),
        migrations.AddIndex(
            model_name="exchange",
            index=models.Index(
                models.F("sent_at"), condition=models.Q(("state", "UNKNOWN")), name="exchanges_sent_lately"
            ),
        ),
        migrations.AddConstraint(
            model_name="coupon",
            constraint=models.UniqueConstraint(
                models.F("exchange"), models.F("ordinal"), models.F("replaced"), name="one_live_coupon_per_ordinal"
            ),
        ),
        migrations.AddConstraint(
            model_name="exchange",
            constraint=models.UniqueConstraint(models.F("request_no"), name="one_exchange_per_request"),
        ),
    ]
