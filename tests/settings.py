"""Settings of the tests: those of the business side, with what only costs time taken away."""

import os

# Before the settings are read: a test database holds no real cards.
os.environ.setdefault("DEMO_SECRETS", "1")

from config.settings import *  # noqa: F403  a settings module is a list of names
from config.settings import DATABASES

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
ALLOWED_HOSTS = ["testserver", "127.0.0.1", "localhost"]
DEBUG = False
WEBHOOK_INTERNAL_NETWORKS = []
EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"

for _door in DATABASES.values():
    # A test need not survive a power cut.
    _door["OPTIONS"] = {**_door.get("OPTIONS", {}), "options": "-c synchronous_commit=off"}

# Two hundred threads on a busy machine: what is counted here is not how long a request waits for it.
RATE_LIMITS_PATIENCE = 10.0
