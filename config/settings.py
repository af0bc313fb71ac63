"""Settings of the business side. Everything that differs between places comes from the environment;
whatever is unset falls back to the embedded servers and to secrets made once under ``var/``."""

import os
from datetime import timedelta
from pathlib import Path

import environ
import structlog
from django.core.exceptions import ImproperlyConfigured
from django.templatetags.static import static
from django.utils.translation import gettext_lazy as _

from config import embedded, keys

env = environ.Env()
BASE_DIR = Path(__file__).resolve().parent.parent
VAR_DIR = embedded.VAR


def _secret(name: str) -> list[str]:
    return keys.read(name, environment=os.environ, folder=VAR_DIR)


DEBUG = env.bool("DEBUG", default=False)

# Secrets: newest first, the older ones still read what they wrote.
SECRET_KEY, *SECRET_KEY_FALLBACKS = _secret("SECRET_KEY")
CARD_NUMBER_KEYS = _secret("CARD_NUMBER_KEYS")
COUPON_CODE_KEYS = _secret("COUPON_CODE_KEYS")
INSURER_KEYS = _secret("INSURER_KEYS")
POINTS_SYSTEM_KEYS = _secret("POINTS_SYSTEM_KEYS")
SECOND_FACTOR_KEYS = _secret("SECOND_FACTOR_KEYS")
# Changing it makes every merchant's API key void, so it is one and stays.
API_KEY_PEPPER = _secret("API_KEY_PEPPER")[0]

# Who may ask, and over what
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["127.0.0.1", "localhost", "[::1]"])
HTTPS = env.bool("HTTPS", default=False)
SECURE_SSL_REDIRECT = HTTPS
SECURE_REDIRECT_EXEMPT = [r"^healthz$"]  # asked by whoever watches the process, from beside it
SECURE_HSTS_SECONDS = env.int("HSTS_SECONDS", default=0)
SECURE_HSTS_INCLUDE_SUBDOMAINS = env.bool("HSTS_INCLUDE_SUBDOMAINS", default=False)
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
if HTTPS:
    # With this prefix no neighbouring host and no page without HTTPS can plant a session.
    SESSION_COOKIE_NAME = "__Host-sessionid"
SESSION_COOKIE_AGE = 12 * 60 * 60  # one working day
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[])
if env.bool("BEHIND_PROXY", default=False):
    # Only where a proxy in front always sets this header itself: otherwise anyone could claim HTTPS.
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
# So many proxies in front add the address they were asked from to X-Forwarded-For; what stands further left is hearsay.
TRUSTED_PROXIES = env.int("TRUSTED_PROXIES", default=int(env.bool("BEHIND_PROXY", default=False)))
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]

INSTALLED_APPS = [
    "config",
    "unfold.apps.BasicAppConfig",
    "config.apps.BackOffice",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "rest_framework",
    "django_filters",
    "django_otp",
    "axes",
    "drf_spectacular_sidecar",
    "issuing",
    "prepaid",
    "insurance",
    "claims",
    "points",
]
MIDDLEWARE = [
    "config.logs.RequestLog",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "config.pages.ContentSecurityPolicy",
    "django.middleware.locale.LocaleMiddleware",
    "config.api.Door",  # what follows is for pages
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django_otp.middleware.OTPMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "config.signing_in.SessionsEnd",
]
ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
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

# Two doors to one database. `owner` makes and migrates the tables; `default`, which all code uses, first
# steps down to a role that cannot write a balance: only the functions of prepaid/sql/ledger.sql can.
_database = env.db_url_config(env.str("DATABASE_URL", default="") or embedded.join().database_url) | {
    "CONN_HEALTH_CHECKS": True,
}
_options = _database.get("OPTIONS", {})
DATABASES = {
    "default": _database
    | {
        # One connection per thread for ever: a new one for each request costs ten times the payment itself.
        "CONN_MAX_AGE": None,
        # Only what asks to be prepared is: a plan kept for good suits one card's row, not arrays of ten thousand.
        "OPTIONS": _options | {"server_side_binding": True, "prepare_threshold": 2**31, "assume_role": "prepaid_app"},
        "TEST": {"MIRROR": "owner"},
    },
    "owner": _database | {"CONN_MAX_AGE": 0, "OPTIONS": _options},
}
REDIS_URL = env.str("REDIS_URL", default="") or embedded.join().redis_url

# How often one key may ask in a minute, by kind; a merchant's own limits take their place. `guess` is for an address
# that brings keys which do not exist. Payments: about what a machine of two cores can take.
RATE_LIMITS = {
    "read": env.int("RATE_LIMIT_READ", default=12_000),
    "write": env.int("RATE_LIMIT_WRITE", default=12_000),
    "payment": env.int("RATE_LIMIT_PAYMENT", default=60_000),
    "lookup": env.int("RATE_LIMIT_LOOKUP", default=1_200),
    "guess": env.int("RATE_LIMIT_GUESS", default=60),
}
# With Redis away nobody can be counted: a till that cannot pay is worse than a till that is not counted.
RATE_LIMITS_CLOSED = env.bool("RATE_LIMITS_CLOSED", default=False)
RATE_LIMITS_PATIENCE = 0.05  # seconds that a request waits to be counted

# Partners: a real insurer replaces the one beside us by a URL and a key.
INSURER_URL = env.str("INSURER_URL", default="") or f"{embedded.partners_url()}/insurer/"
POINTS_SYSTEM_URL = env.str("POINTS_SYSTEM_URL", default="") or f"{embedded.partners_url()}/points/"
# So many threads of one process may wait for the points system while somebody waits for them: half of a web process's.
POINTS_SYSTEM_WAITING = env.int("POINTS_SYSTEM_WAITING", default=4)
# Test merchants speak to the partners' test systems: unless told otherwise the ones beside us, never the live ones.
INSURER_TEST_URL = env.str("INSURER_TEST_URL", default="") or f"{embedded.partners_url()}/insurer/"
POINTS_SYSTEM_TEST_URL = env.str("POINTS_SYSTEM_TEST_URL", default="") or f"{embedded.partners_url()}/points/"
INSURER_TEST_KEYS = env.list("INSURER_TEST_KEYS", default=[]) or INSURER_KEYS
POINTS_SYSTEM_TEST_KEYS = env.list("POINTS_SYSTEM_TEST_KEYS", default=[]) or POINTS_SYSTEM_KEYS

# Merchants say where they want to be told; into our own networks nothing is sent. A demonstration, which has no
# DATABASE_URL, may tell a program beside it.
WEBHOOK_INTERNAL_NETWORKS = env.list(
    "WEBHOOK_INTERNAL_NETWORKS",
    default=[] if env.str("DATABASE_URL", default="") else ["127.0.0.0/8", "::1/128"],
)

# Staff: how they show who they are, and how long that holds
SECOND_FACTOR = env.str(
    "SECOND_FACTOR",
    # A demonstration prints its passwords; whoever runs it for an hour has no telephone to set up.
    default="offered" if os.environ.get("DEMO_SECRETS") == "1" or not os.environ.get("DATABASE_URL") else "required",
)
if SECOND_FACTOR not in ("required", "offered"):
    raise ImproperlyConfigured("SECOND_FACTOR is required or offered.")
SECOND_FACTOR_ISSUER = env.str("SECOND_FACTOR_ISSUER", default="Prepaid")
SESSION_IDLE = timedelta(minutes=env.int("SESSION_IDLE_MINUTES", default=30))
SESSION_LONGEST = timedelta(seconds=SESSION_COOKIE_AGE)
AUTHENTICATION_BACKENDS = ["config.lockout.Backend", "django.contrib.auth.backends.ModelBackend"]
AXES_HANDLER = "config.lockout.Attempts"
AXES_FAILURE_LIMIT = 10
AXES_LOCKOUT_PARAMETERS = ["username", "ip_address"]
AXES_COOLOFF_TIME = timedelta(minutes=15)
AXES_CLIENT_IP_CALLABLE = "config.audit.came_from"
# Who tries while the door is locked does not keep it locked: the rightful owner would never get in.
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False
AXES_RESET_ON_SUCCESS = True
AXES_SENSITIVE_PARAMETERS = ["username", "password", "code"]
# What happened is told by the audit; what counts against whom, by the attempts alone.
AXES_DISABLE_ACCESS_LOG = True
AXES_ENABLE_ADMIN = False
AXES_VERBOSE = False
SILENCED_SYSTEM_CHECKS = ["axes.W002"]  # the page that says so is the sign-in page's own, not a middleware's

AUTH_USER_MODEL = "auth.User"
LOGIN_URL = "admin:login"
LOGIN_REDIRECT_URL = "admin:index"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

LANGUAGE_CODE = "en"
LANGUAGES = [("en", _("English")), ("zh-hans", _("Simplified Chinese"))]
LOCALE_PATHS = [BASE_DIR / "config" / "locale"]
TIME_ZONE = "Asia/Shanghai"
USE_TZ = True

# Files of lists that staff export lie here so long, and are then deleted.
EXPORTS_KEPT_HOURS = env.int("EXPORTS_KEPT_HOURS", default=24)

STATIC_URL = "/static/"
STATIC_ROOT = VAR_DIR / "static"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    # A name that changes with the content may be kept by browsers for ever.
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
}
MEDIA_ROOT = VAR_DIR / "files"

REST_FRAMEWORK = {"DEFAULT_SCHEMA_CLASS": "config.contract.Operation"}
SPECTACULAR_SETTINGS = {
    "OAS_VERSION": "3.1.0",
    "TITLE": "Prepaid: the merchant API",
    "VERSION": "1",
    "DESCRIPTION": (
        "For the developers of a merchant's tills, shop and apps: open cards, take payments, exchange points, file "
        "claims. How it behaves everywhere (keys, idempotency, lists, errors) is told on "
        "[one page](/api/v1/docs/README.md); the [quickstart](/api/v1/docs/quickstart.md) takes five minutes."
    ),
    "SERVERS": [{"url": "/api/v1"}],
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "SCHEMA_PATH_PREFIX_TRIM": True,
    "SORT_OPERATIONS": False,
    "POSTPROCESSING_HOOKS": ["config.contract.link"],
    "APPEND_COMPONENTS": {
        "securitySchemes": {
            "key": {
                "type": "http",
                "scheme": "bearer",
                "description": "An API key, `sk_test_…` or `sk_live_…`; each operation names the scope it needs.",
            }
        }
    },
}

# The look of the back office; what it is made of stands in config/admin.py.
UNFOLD = {
    "SITE_TITLE": _("Prepaid"),
    "SITE_HEADER": _("Prepaid"),
    "SITE_SYMBOL": "credit_card",
    "SITE_URL": "/",
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": lambda request: static("config/mark.svg")}],
    "STYLES": [lambda request: static("config/admin.css")],
    "SHOW_LANGUAGES": True,
    "ACCOUNT": {"navigation": "config.signing_in.own_pages"},
    "SHOW_VIEW_ON_SITE": False,
    "SIDEBAR": {"navigation": "config.admin.menu"},
    "DASHBOARD_CALLBACK": "prepaid.admin.first_page",
    "COLORS": {
        "primary": {
            "50": "oklch(98.4% .014 180.720)",
            "100": "oklch(95.3% .051 180.801)",
            "200": "oklch(91% .096 180.426)",
            "300": "oklch(85.5% .138 181.071)",
            "400": "oklch(77.7% .152 181.912)",
            "500": "oklch(70.4% .14 182.503)",
            "600": "oklch(51.1% .096 186.391)",
            "700": "oklch(43.7% .078 188.216)",
            "800": "oklch(38.6% .063 188.416)",
            "900": "oklch(27.7% .046 192.524)",
            "950": "oklch(22% .04 192.500)",
        }
    },
}

LOG_FORMAT = env.str("LOG_FORMAT", default="console" if DEBUG else "json")
_shared_processors: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso"),
]
structlog.configure(
    processors=[
        structlog.stdlib.filter_by_level,
        *_shared_processors,
        structlog.processors.StackInfoRenderer(),
        structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
    ],
    logger_factory=structlog.stdlib.LoggerFactory(),
    cache_logger_on_first_use=True,
)
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "json": {
            "()": "structlog.stdlib.ProcessorFormatter",
            "processors": [
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(ensure_ascii=False),
            ],
            "foreign_pre_chain": _shared_processors,
        },
        "console": {
            "()": "structlog.stdlib.ProcessorFormatter",
            "processors": [
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.dev.ConsoleRenderer(colors=False),
            ],
            "foreign_pre_chain": _shared_processors,
        },
    },
    "handlers": {"stream": {"class": "logging.StreamHandler", "formatter": LOG_FORMAT}},
    "root": {"handlers": ["stream"], "level": env.str("LOG_LEVEL", default="INFO")},
    "loggers": {
        # The request log says it already, with the request's id.
        "django.request": {"level": "ERROR"},
        "django.server": {"level": "ERROR"},
        # One line for each question to a partner would drown the rest; the messages are in the database.
        "httpx": {"level": "WARNING"},
        # Nor does one for each tick of the clock tell anything; what fails is an error and is told.
        "celery.beat": {"level": "WARNING"},
        "celery.worker.strategy": {"level": "WARNING"},
        "celery.app.trace": {"level": "WARNING"},
        # Who signed in stands in the audit.
        "axes": {"level": "ERROR"},
    },
}
