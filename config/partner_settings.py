"""Settings of the partner systems: a process and a database of their own, strangers to the business side.

The reference insurer and the credit-card points system live here, each with a database of its own; nothing of one
may be read by the other. The staff of both sign in at the same desk, and each sees what is theirs.
"""

import os
from pathlib import Path
from typing import Any

import environ
from django.utils.translation import gettext_lazy as _

from config import embedded, keys

env = environ.Env()
BASE_DIR = Path(__file__).resolve().parent.parent

SECRET_KEY = keys.read("PARTNERS_SECRET_KEY", environment=os.environ, folder=BASE_DIR / "var")[0]
DEBUG = False
ALLOWED_HOSTS = env.list("PARTNERS_ALLOWED_HOSTS", default=["127.0.0.1", "localhost"])

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "insurance.sandbox",
    "points.system",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "config.partner_urls"
WSGI_APPLICATION = "config.partner_wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]


def _database(url: str) -> dict[str, Any]:
    named = env.db_url_config(url)
    return named | {
        "CONN_MAX_AGE": None,
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": named.get("OPTIONS", {}) | {"server_side_binding": True},
    }


DATABASES = {
    "default": _database(env("PARTNERS_DATABASE_URL", default="") or embedded.join().partners_database_url),
    "points_system": _database(
        env("POINTS_SYSTEM_DATABASE_URL", default="") or embedded.join().points_system_database_url
    ),
}
# Asking before every message whether the connection lives would cost as much as the message. A connection that has
# died costs its next message the answer, and whoever sent that asks again.
DATABASES["points_system"]["CONN_HEALTH_CHECKS"] = False
DATABASES["points_system"]["OPTIONS"]["prepare_threshold"] = 5
DATABASE_ROUTERS = ["config.partner_router.EachItsOwn"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# Cookies know no ports: under the usual names this site's sign-in would end that of a business side which
# runs on the same host.
SESSION_COOKIE_NAME = "partner_session"
CSRF_COOKIE_NAME = "partner_csrf"
LOGIN_URL = "admin:login"
LOGIN_REDIRECT_URL = "/"

LANGUAGE_CODE = "en"
LANGUAGES = [("en", _("English")), ("zh-hans", _("Simplified Chinese"))]
LOCALE_PATHS = [BASE_DIR / "config" / "locale"]
TIME_ZONE = "Asia/Shanghai"
USE_TZ = True
STATIC_URL = "static/"
# Only the admin's own files are served: found where they are installed, nothing is collected.
WHITENOISE_USE_FINDERS = True
DATA_UPLOAD_MAX_MEMORY_SIZE = 4 * 1024 * 1024

# Shared with the business side, newest first: while a key is replaced both are valid.
INSURER_KEYS = keys.read("INSURER_KEYS", environment=os.environ, folder=BASE_DIR / "var")
POINTS_SYSTEM_KEYS = keys.read("POINTS_SYSTEM_KEYS", environment=os.environ, folder=BASE_DIR / "var")
# Where late answers go; unset: nowhere, and the business side learns them by asking.
INSURER_CALLBACK_URL = env("INSURER_CALLBACK_URL", default="")
POINTS_SYSTEM_CALLBACK_URL = env("POINTS_SYSTEM_CALLBACK_URL", default="")
