"""Pages that open from disk: their templates, and how what a model wrote stays text in them."""

from __future__ import annotations

import base64
import hashlib
import re
import unicodedata

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape


def templates(*packages: str) -> Environment:
    """The templates of packages, the first ones' before the others'.

    They escape whatever is put in. A name that they are not given is an error. `prose` and `visible` are filters.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package) for package in packages]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"prose": prose, "visible": visible}
    return environment


def source(environment: Environment, name: str) -> Markup:
    """A file of ours as it is, a style or a script."""
    return Markup(environment.loader.get_source(environment, name)[0])


def script_hash(script: str) -> str:
    """By which a page's security policy allows this script and no other: SHA-256, base64."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def prose(sentence: str) -> Markup:
    """The sentence as HTML that breaks between words and inside long names, not inside "97 %" or "[94, 98]"."""
    kept = re.sub(r"\[[^\]]*\]| %", lambda match: match[0].replace(" ", "\u00a0"), sentence)
    return Markup(re.sub(r"([/_])(?=\w)", r"\1<wbr>", str(escape(kept))))


def visible(text: str) -> str:
    """The text with control characters as pictures, so that nothing that a model wrote hides; line breaks stay.

    What has no picture is U+FFFD: characters of no width, and what turns the direction of others round. Joiners
    stay, of which emoji and some scripts are made.
    """
    return "".join(_visible(character) for character in text)


def _visible(character: str) -> str:
    if ord(character) < 0x20 and character != "\n":
        return chr(0x2400 + ord(character))
    if unicodedata.category(character) in ("Cc", "Cf", "Cs") and character not in "\n\u200c\u200d":
        return "\ufffd"
    return character
