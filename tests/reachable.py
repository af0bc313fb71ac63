"""Whether the servers of DATABASE_URL and REDIS_URL answer; the database itself need not exist."""

import os
import sys
from urllib.parse import urlsplit, urlunsplit

import psycopg
import redis


def main() -> int:
    """0 when both answer."""
    maintenance = urlunsplit(urlsplit(os.environ["DATABASE_URL"])._replace(path="/postgres"))
    try:
        psycopg.connect(maintenance, connect_timeout=5).close()
        redis.Redis.from_url(os.environ["REDIS_URL"], socket_connect_timeout=5).ping()
    except (psycopg.Error, redis.RedisError) as problem:
        print(problem)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
