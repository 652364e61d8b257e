"""The credential: is there one, and does the model's API take it?"""

from urllib.parse import urlsplit

from nanoclaw.config import SECRETS_FILE, read_credential
from nanoclaw.gateway import CredentialKind
from nanoclaw.gateway.trial import Heard, ask
from nanoclaw.ops.doctor.scene import Scene, fail, in_time, ok, warn
from nanoclaw.ops.findings import Finding

REPLACE = "nanoclaw setup --replace-key"
_ANSWER = 8.0  # seconds
_OFF = 120  # seconds between two clocks, from which on TLS and WhatsApp may fail
_NAMES = {CredentialKind.API_KEY: "an API key", CredentialKind.OAUTH: "a token"}
_BASE_URL = "nanoclaw config get base_url"


async def look(scene: Scene, *, offline: bool) -> list[Finding]:
    """Which kind, where from; and unless `offline` one question to the API, which costs nothing."""
    credential = read_credential(scene.home.root, scene.environ)
    if credential is None:
        return [fail("credential", "there is no key or token", "nanoclaw setup")]
    stored = read_credential(scene.home.root, {})
    where = SECRETS_FILE if stored == credential else "the environment"
    beside = f", which wins over the one in {SECRETS_FILE}" if stored and stored != credential else ""
    found = [ok("credential", f"{_NAMES[credential.kind]} from {where}{beside}")]
    if offline:
        return found
    if not scene.settled:  # it must not be shown to another API than the owner's
        return [*found, warn("model API", "not asked: the settings do not say which it is", "nanoclaw config check")]
    try:
        heard = await in_time(ask(scene.config.base_url, credential, scene.config.model), _ANSWER)
    except TimeoutError:
        heard = Heard(why=f"no answer within {_ANSWER:.0f} s")
    return [*found, _judge(scene, heard), *_clock(heard, scene.now)]


def _judge(scene: Scene, heard: Heard) -> Finding:
    url = urlsplit(scene.config.base_url).netloc  # what follows may hold a key
    if not heard.status:
        return fail("model API", f"{url} cannot be reached: {heard.why}", _BASE_URL)
    if heard.about == "billing":
        return fail("model API", "it wants payment: check the account's billing", _BASE_URL)
    if heard.about == "model":
        mend = "nanoclaw config unset model"
        return fail("model API", f"it does not know the model {scene.config.model}", mend)
    said = f"it answered {heard.status}{f' ({heard.kind})' if heard.kind else ''}"
    match heard.status:
        case 200:
            return ok("model API", f"{url} takes it")
        case 401:
            return fail("model API", "it refuses the key or token (401)", REPLACE)
        case 403:
            return fail("model API", f"{said}: this key or token may not do that", REPLACE)
        case 429:
            return warn("model API", f"{said}: the account's limit is reached for now", "nanoclaw usage")
        case 404 | 405:
            return warn("model API", f"{said}: it cannot count tokens, so the key was not tried", _BASE_URL)
        case status if status >= 500:
            return warn("model API", f"{said}: it is overloaded or out of order", "nanoclaw doctor")
    return fail("model API", f"{said}, which is no answer of such an API", _BASE_URL)


def _clock(heard: Heard, now: int) -> list[Finding]:
    off = now / 1000 - heard.at if heard.at else 0.0
    if abs(off) <= _OFF:
        return [ok("clock", "right, by the API's")] if heard.at else []
    said = f"it is {abs(off) / 60:.0f} minutes {'ahead' if off > 0 else 'behind'} of the API's: TLS and WhatsApp fail"
    return [fail("clock", said, "timedatectl set-ntp true")]
