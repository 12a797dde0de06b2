"""Where a model's file is asked for: a hub by commit, a server, or an S3-compatible store by a signed address that any HTTP client can ask for.

Format of the signature (AWS Signature Version 4, query parameters): https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

SECONDS = 3600
"""How long an address is good; each try signs its own."""


def locate(origin: str, path: str) -> tuple[str, dict[str, str]]:
    """Return a file's address and the headers that it is asked with."""
    kind, _, rest = origin.partition("://")
    name = quote(path)
    if kind == "hf":
        repository, _, revision = rest.partition("@")
        token = os.environ.get("HF_TOKEN", "").strip()
        endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
        return f"{endpoint}/{repository}/resolve/{quote(revision, safe='')}/{name}", {"Authorization": f"Bearer {token}"} if token else {}
    if kind == "s3":
        endpoint = os.environ.get("AWS_ENDPOINT_URL") or f"https://s3.{os.environ.get('AWS_REGION') or 'us-east-1'}.amazonaws.com"
        return signed(f"{endpoint.rstrip('/')}/{quote(rest.rstrip('/'))}/{name}", os.environ, datetime.now(UTC)), {}
    return f"{origin.rstrip('/')}/{name}", {}


def signed(url: str, keys: Mapping[str, str], now: datetime, seconds: int = SECONDS) -> str:
    """Return the address for AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (AWS_SESSION_TOKEN, AWS_REGION) in `keys`; as it is without them."""
    if not keys.get("AWS_ACCESS_KEY_ID"):
        return url
    parts, region = urlsplit(url), keys.get("AWS_REGION") or "us-east-1"
    day, moment = now.strftime("%Y%m%d"), now.strftime("%Y%m%dT%H%M%SZ")
    scope = f"{day}/{region}/s3/aws4_request"
    told = {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{keys['AWS_ACCESS_KEY_ID']}/{scope}",
        "X-Amz-Date": moment,
        "X-Amz-Expires": str(seconds),
        "X-Amz-SignedHeaders": "host",
        **({"X-Amz-Security-Token": keys["AWS_SESSION_TOKEN"]} if keys.get("AWS_SESSION_TOKEN") else {}),
    }
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in sorted(told.items()))
    request = "\n".join(("GET", parts.path, query, f"host:{parts.netloc}", "", "host", "UNSIGNED-PAYLOAD"))
    text = "\n".join(("AWS4-HMAC-SHA256", moment, scope, hashlib.sha256(request.encode()).hexdigest()))
    key = f"AWS4{keys['AWS_SECRET_ACCESS_KEY']}".encode()
    for word in (day, region, "s3", "aws4_request"):
        key = hmac.digest(key, word.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    return f"{parts.scheme}://{parts.netloc}{parts.path}?{query}&X-Amz-Signature={signature}"
