"""What people get of an agent's text: without what is internal, in the parts that each channel sends."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nanoclaw.prompts import for_people

SHORT = 1000  # characters that take no time
_SEAM = "\ufdd0"  # a noncharacter, for between two parts
_LONGEST = 200_000  # characters that people get of one text
_CUT = "\n\n[Here {} characters are left out: that is too long for a chat.]"

Parts = Callable[[str], Mapping[str, list[str]]]  # an agent's text -> by channel, the texts that it sends for it


@dataclass(frozen=True)
class Spoken:
    """What people get of an agent's text. It may take a second to make, so no transaction does."""

    whole: str
    parts: Mapping[str, list[str]]

    def on(self, channel: str) -> list[str]:
        """As the channel sends it; [] for nothing."""
        return self.parts.get(channel, [self.whole] if self.whole else [])


def spoken(text: str, parts: Parts) -> Spoken:
    """What people get of an agent's text."""
    said = for_people(text)
    if len(said) > _LONGEST:
        said = said[:_LONGEST] + _CUT.format(len(said) - _LONGEST)
    return Spoken(said, {channel: _seen(texts) for channel, texts in parts(said).items()} if said else {})


def _seen(texts: list[str]) -> list[str]:
    """Looked through once more: marks and entities could hide a tag from the first look."""
    return [part for part in for_people(_SEAM.join(texts)).split(_SEAM) if part.strip()]
