"""What each kind of agent is asked at the end of a prompt, and whether its reasoning is remembered.

How its answer becomes an action is `scoring.parse_action`.
Source: balrog-ai/BALROG, agents/{naive,chain_of_thought,robust_naive,robust_cot}.py.
"""

from __future__ import annotations

_MARKED = """output it strictly in the following format:

<|ACTION|>YOUR_CHOSEN_ACTION<|END|>

Replace YOUR_CHOSEN_ACTION with the chosen action."""

REQUESTS = {
    "naive": (
        "You can only output one of the above actions at a time, and always have to output an action until the "
        "episode terminates.\nAction:"
    ),
    "cot": (
        "First think about what's the best course of action step by step.\n"
        "Finally, provide a single output action at the end of the message in the form of: ACTION: <action>"
    ),
    "robust_naive": (
        f"You must choose exactly one of the listed actions and {_MARKED} Output no other text, explanation, or "
        "reasoning."
    ),
    "robust_cot": (
        "First, think about the best course of action.\n"
        f"Then, you must choose exactly one of the listed actions and {_MARKED}"
    ),
}
"""The end of the last message, by agent: the four that need neither examples nor code of one's own."""

REMEMBERS = frozenset({"cot"})
"""Agents whose whole answer stands in the history in place of the action. The official robust_cot never hands its
reasoning on, so the limit `max_cot_history` does nothing for it."""
