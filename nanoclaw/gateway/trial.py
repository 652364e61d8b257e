"""Asks the model's API once whether it takes the credential: a question that costs no tokens."""

import re
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import aiohttp

from nanoclaw.gateway import Credential, CredentialKind

_PATH = "/v1/messages/count_tokens"
_EXPIRED = "valid now: is the clock right?"
_UNKNOWN = "trusted here: where a proxy stands on the way, SSL_CERT_FILE names its authority"
_MOST = 64 << 10  # bytes of the answer that are looked at


@dataclass(frozen=True)
class Heard:
    """What came back. Nothing of it holds the credential."""

    status: int = 0  # 0: no answer
    kind: str = ""  # the API's word for what is wrong: "authentication_error"
    about: str = ""  # "model" or "billing", where its sentence is about that
    at: float = 0  # seconds since 1970 by its clock; 0 where it does not say
    why: str = ""  # why there was no answer, in a few words


async def ask(base_url: str, credential: Credential, model: str) -> Heard:
    """Have a prompt of two letters counted. How long it may take is the caller's to say."""
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.post(base_url + _PATH, json=body, headers=_headers(credential), allow_redirects=False) as answer,
        ):
            return _heard(answer.status, answer.headers.get("date", ""), await answer.content.read(_MOST))
    except aiohttp.ClientConnectorDNSError:
        return Heard(why="its name is not found: check the network and its name server")
    except (aiohttp.ClientSSLError, aiohttp.ClientConnectorCertificateError) as e:
        expired = "expired" in str(e) or "not yet valid" in str(e)
        return Heard(why=f"its certificate is not {_EXPIRED if expired else _UNKNOWN}")
    except (aiohttp.ClientError, OSError) as e:
        return Heard(why=getattr(e, "strerror", None) or type(e).__name__)


def _headers(credential: Credential) -> dict[str, str]:
    known = {"anthropic-version": "2023-06-01", "user-agent": "nanoclaw"}
    if credential.kind is CredentialKind.API_KEY:
        return known | {"x-api-key": credential.secret}
    return known | {"authorization": f"Bearer {credential.secret}", "anthropic-beta": "oauth-2025-04-20"}


def _heard(status: int, date: str, data: bytes) -> Heard:
    text = data.decode("utf-8", "replace")
    kind = re.search(r'"type"\s*:\s*"([a-z_]{1,60}_error)"', text)
    about = "billing" if "credit balance" in text or "billing" in text else ""
    about = about or ("model" if status == 404 and re.search(r'"message"\s*:\s*"[^"]*\bmodel\b', text) else "")
    return Heard(status, kind[1] if kind else "", about, _seconds(date))


def _seconds(date: str) -> float:
    try:
        return parsedate_to_datetime(date).timestamp()
    except ValueError:
        return 0
