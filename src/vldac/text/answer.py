"""What an answer says, for people: on the host, after the fact. The device reads answers by `grammar`."""

from __future__ import annotations

import json


def thoughts_of(answer: str, action: str | None = None) -> str:
    """The thoughts in the last answer object of a text; "" where there is none.

    Args:
      answer: all that a model wrote. It is data: whatever it holds, nothing is raised.
      action: that was read from it: an object behind the one that names it is none of the world's, and passed
        over. None = none was read.
    """
    decoder, last = json.JSONDecoder(), ""
    starts = [i for i, character in enumerate(answer) if character == "{"]
    for start in reversed(starts):
        try:
            found, _ = decoder.raw_decode(answer, start)
        except (ValueError, RecursionError):
            continue
        if (
            isinstance(found, dict)
            and list(found) == ["thoughts", "action"]
            and isinstance(found["thoughts"], str)
        ):
            if action is None or found["action"] == action:
                return found["thoughts"]
            last = last or found["thoughts"]
    return last
