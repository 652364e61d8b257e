"""Looks whether WhatsApp can be reached: a connect that fails costs the library a file descriptor for ever."""

import asyncio
import base64
import ssl
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

_HOST = "web.whatsapp.com"
_LIMIT = 10.0  # seconds
_SCHEMES = ("http", "https")


async def probe() -> str | None:
    """Why it cannot, if so; by the same way that the library takes."""
    given = "" if proxy_bypass(_HOST) else getproxies().get("https", "")
    host = _HOST
    try:
        async with asyncio.timeout(_LIMIT):
            if not given:
                await _dial(host, 443)
                return None
            proxy = urlsplit(given if "//" in given else f"http://{given}")
            host = proxy.hostname or ""
            if not host:
                raise ValueError
            return await _through(proxy)
    except TimeoutError:
        return f"{host} does not answer; it is tried again"
    except ValueError:
        return "HTTPS_PROXY is no address; mend it and restart, for example http://proxy.example.org:3128"
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as e:
        why = getattr(e, "strerror", None) or type(e).__name__
        return f"{host} cannot be reached ({why}); it is tried again"


async def _dial(host: str, port: int) -> None:
    _, writer = await asyncio.open_connection(host, port)
    writer.close()


async def _through(proxy: SplitResult) -> str | None:
    """Ask the proxy for a way there, if it is one that we can ask."""
    secure = proxy.scheme == "https"
    host, port = proxy.hostname or "", proxy.port or (443 if secure else 80)
    if proxy.scheme not in _SCHEMES:
        await _dial(host, port)
        return None
    login = f"{unquote(proxy.username or '')}:{unquote(proxy.password or '')}"
    basic = f"Proxy-Authorization: Basic {base64.b64encode(login.encode()).decode()}\r\n" if proxy.username else ""
    context = ssl.create_default_context() if secure else None
    reader, writer = await asyncio.open_connection(host, port, ssl=context)
    try:
        writer.write(f"CONNECT {_HOST}:443 HTTP/1.1\r\nHost: {_HOST}:443\r\n{basic}\r\n".encode())
        answer = (await reader.readuntil(b"\n")).split()
    finally:
        writer.close()
    if answer[1:2] == [b"200"]:
        return None
    return f"the proxy {host} does not let us through to {_HOST}; it is tried again"
