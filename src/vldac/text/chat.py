"""The chat template of a tokenizer, read by rendering it: what opens a turn, what closes it, what ends an answer.

* A template is a program. It may add a system message, trim what it is given, spell an image in its own way; so
  it is run on markers and its output is taken apart, on the host and once.
* What ends an answer is what the template puts behind an assistant's words. A tokenizer's `eos_token` may be
  another one: Gemma's is <eos>, its answers end with <end_of_turn>.
"""

from __future__ import annotations

from typing import Any, NamedTuple

# Used where a tokenizer brings no template of its own: Qwen2-VL's, without its default system message.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_TURN_TOKENS = "<|im_start|>", "<|im_end|>"  # what that template needs
_IMAGE = {"type": "image", "image": ""}  # templates look at the type or for the key
_STATIC, _DYNAMIC, _ANSWER = "\x01static\x01", "\x01dynamic\x01", "\x01answer\x01"  # stand in for text


class Turn(NamedTuple):
    """A user's turn up to the first token of the answer, apart from what the user says.

    Attributes:
      opening: ids before the user's first words: what starts every text, a system message, the turn's header.
      closing: ids behind the user's last words: the turn's end, the header of the answer.
      trims: whether the template takes whitespace off the ends of text.
    """

    opening: list[int]
    closing: list[int]
    trims: bool


def user_turn(tokenizer: Any, images: int) -> Turn:
    """What the chat template puts around a text, `images` images, and a text.

    Raises:
      ValueError: the template does not write the three in this order, or it can not be used.
    """
    content = [_text(f"{_STATIC}\n"), *[_IMAGE] * images, _text(_DYNAMIC)]
    rendered = render(tokenizer, [{"role": "user", "content": content}], add_generation_prompt=True)
    before, found, rest = rendered.partition(_STATIC)
    between, found_too, after = rest.partition(_DYNAMIC)
    trims = not between.startswith("\n")
    spelled = between if trims else between[1:]
    image = spelled[: len(spelled) // images]
    if not (found and found_too and image and spelled == image * images):
        raise ValueError(
            "the tokenizer's chat template does not keep the text, the images and the text of a user's turn in "
            f"their order, with nothing between them; accepted: a template that does, as Qwen2-VL's. It writes "
            f"{rendered!r}"
        )
    # Here, and only here, the text of special tokens means those tokens: it is the template's own.
    return Turn(_ids(tokenizer, before), _ids(tokenizer, after), trims)


def end_of_answer(tokenizer: Any) -> int:
    """The id that ends an answer: the first token of its own that the template puts behind an assistant's words.

    A token of its own is one that the tokenizer never cuts. Where the template says nothing of an answer's end,
    it is the tokenizer's `eos_token`.

    Raises:
      ValueError: neither is there.
    """
    turns = [{"role": "user", "content": [_text(_STATIC)]}, {"role": "assistant", "content": [_text(_ANSWER)]}]
    try:
        rendered = render(tokenizer, turns, add_generation_prompt=False)
    except ValueError:  # whoever writes a prompt is told
        rendered = ""
    _, _, behind = rendered.partition(_ANSWER)
    added = tokenizer.added_tokens_decoder
    for token_id in _ids(tokenizer, behind):
        if token_id in added and not added[token_id].content.isspace():
            return token_id
    if tokenizer.eos_token_id is None:
        raise ValueError(
            "nothing says which token ends an answer: the chat template puts none behind an assistant's words, "
            "and the tokenizer names no end-of-sequence token (eos_token)"
        )
    return tokenizer.eos_token_id


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def render(tokenizer: Any, messages: list[dict[str, Any]], add_generation_prompt: bool) -> str:
    """What the chat template makes of a conversation.

    Args:
      tokenizer: whose template; without one it is `CHAT_TEMPLATE`.
      messages: {"role", "content"} each, content being {"type": "text", "text"} and {"type": "image", "image"}.
      add_generation_prompt: whether the header of an answer follows.

    Raises:
      ValueError: there is no template that could be used, or it refuses the conversation.
    """
    template = None  # the tokenizer's own
    if not tokenizer.chat_template:
        template = CHAT_TEMPLATE
        if missing := [token for token in _TURN_TOKENS if token not in tokenizer.get_added_vocab()]:
            raise ValueError(
                f"the tokenizer has no chat template, nor {' and '.join(missing)}, which the one used in its "
                "place needs; accepted: a tokenizer with a chat template, in chat_template.jinja or in "
                "tokenizer_config.json"
            )
    try:
        return tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=add_generation_prompt
        )
    except Exception as error:  # a program of someone else's
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"the tokenizer's chat template can not write a turn of text and images ({reason})"
        ) from error
