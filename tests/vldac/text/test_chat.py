"""Chat templates of several shapes: prompts are what Hugging Face makes of the same turn, and answers end so."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.gemma3.processing_gemma3 import Gemma3Processor

from vldac.models import ImageSpan, image_position_extent, image_position_offsets
from vldac.text.chat import end_of_answer, user_turn
from vldac.text.prompt import Prompt, task_text
from vldac.text.tokenizer import IMAGE, VISION_END, VISION_START, decode_answer, load_tokenizer, vocabulary

TEMPLATES = {
    # Qwen2.5-VL: a system message unless there is one; what is an image is told by its type or by its keys
    "default system message": (
        "{% set image_count = namespace(value=0) %}{% for message in messages %}"
        "{% if loop.first and message['role'] != 'system' %}"
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
        "<|im_start|>{{ message['role'] }}\n"
        "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
        "{% for part in message['content'] %}"
        "{% if part['type'] == 'image' or 'image' in part or 'image_url' in part %}"
        "{% set image_count.value = image_count.value + 1 %}"
        "{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}"
        "<|vision_start|><|image_pad|><|vision_end|>"
        "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    # Qwen3-VL: none; attributes instead of keys, whitespace control, a message's parts in a macro
    "no system message": """\
{%- macro write(content) -%}
    {%- for part in content -%}
        {%- if part.type == 'image' -%}
            {{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
        {%- elif part.type == 'text' -%}
            {{- part.text -}}
        {%- endif -%}
    {%- endfor -%}
{%- endmacro -%}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + write(message.content) + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
""",
    "an image is a part with that key": (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{% for part in message.content %}"
        "{% if 'image' in part %}<|vision_start|><|image_pad|><|vision_end|>{% endif %}"
        "{% if 'text' in part %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
}


def make_prompt(world, tokenizer, span, history, text_observation, reserved=()):
    tokens = vocabulary(tokenizer, reserved=reserved)
    return Prompt.build(world, tokenizer, tokens, span, history, text_observation)


def packed(prompt, frames_seen, phrase=-1):
    """Ids of a prompt without absent slots, and the positions of those behind the prefix."""
    slots = jax.device_get(prompt.context(jnp.int32(frames_seen), jnp.array([phrase], jnp.int32)))
    return [*prompt.prefix.tolist(), *slots.tokens[slots.valid].tolist()], slots.positions[:, slots.valid], slots


def rendered(tokenizer, world, images, words=None):
    """The user's turn in words, by the template."""
    content = [{"type": "text", "text": task_text(world.instruction, world.actions)}]
    content += [{"type": "image", "image": "frame.png"}] * images + (
        [{"type": "text", "text": words}] if words else []
    )
    return tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )


@pytest.fixture
def bytes_tokenizer():
    """The bundled tokenizer, to be given a template."""
    return load_tokenizer()


@pytest.mark.parametrize("template", TEMPLATES)
def test_prompts_are_those_of_the_template_with_images_expanded(bytes_tokenizer, signal, template):
    bytes_tokenizer.chat_template = TEMPLATES[template]
    ids = bytes_tokenizer.convert_tokens_to_ids([VISION_START, IMAGE, VISION_END])
    span = ImageSpan((ids[0],), ids[1], image_position_offsets(2, 3), (ids[2],), image_position_extent(2, 3))
    prompt = make_prompt(signal, bytes_tokenizer, span, history=3, text_observation=True)
    for seen, phrase, words in ((1, -1, None), (3, 0, " red")):
        text = rendered(bytes_tokenizer, signal, seen, words)
        wanted = bytes_tokenizer(text.replace(IMAGE, IMAGE * 6), add_special_tokens=False)["input_ids"]
        assert wanted.count(ids[1]) == 6 * seen
        assert packed(prompt, seen, phrase)[0] == wanted
    assert end_of_answer(bytes_tokenizer) == bytes_tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_prompts_equal_gemmas_processor(gemma_tokenizer, tiny_gemma, signal):
    """Whatever is cut where: blank lines between two images are one token there, and one here."""
    tokenizer = gemma_tokenizer(True)
    processor = Gemma3Processor(
        Gemma3ImageProcessorPil(size={"height": 16, "width": 16}), tokenizer, image_seq_length=4
    )
    prompt = make_prompt(signal, tokenizer, tiny_gemma.image_span(16, 16), history=3, text_observation=True)
    for seen, phrase in ((1, -1), (2, 1), (3, -1), (3, 0)):
        words = signal.phrases[phrase] if phrase >= 0 else None
        text = rendered(tokenizer, signal, seen, words)
        if words:  # a phrase keeps the space before it, which the template would trim
            text = text.replace(f"{words}<end_of_turn>", f" {words}<end_of_turn>")
        images = [[np.zeros((16, 16, 3), np.uint8)] * seen]
        wanted = processor(images=images, text=text, add_special_tokens=False)["input_ids"][0]
        ids, positions, slots = packed(prompt, seen, phrase)
        assert ids == wanted
        np.testing.assert_array_equal(
            positions, np.broadcast_to(np.arange(len(prompt.prefix), len(ids)), positions.shape)
        )
        assert slots.next_position == len(ids)
        visual = np.zeros(prompt.context_slots, bool)
        visual[prompt.image_slots] = True
        np.testing.assert_array_equal(visual, slots.tokens == tiny_gemma.image_token_id)


def test_an_answer_ends_as_the_template_says(gemma_tokenizer):
    tokenizer = gemma_tokenizer(False)
    assert tokenizer.eos_token == "<eos>"
    end = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    table = vocabulary(tokenizer)
    assert end_of_answer(tokenizer) == table.eos_id == end and table.bytes_of[end] is None
    assert table.bytes_of[tokenizer.eos_token_id] is None and table.pad_id == tokenizer.pad_token_id


def test_what_ends_an_answer_is_no_text_even_if_the_tokenizer_says_so(gemma_tokenizer):
    tokenizer = gemma_tokenizer.__wrapped__(False)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content[0].text }} \n<end_of_image>{% endfor %}"
    end = tokenizer.convert_tokens_to_ids("<end_of_image>")
    table = vocabulary(tokenizer)
    assert not tokenizer.added_tokens_decoder[end].special
    assert table.eos_id == end and table.bytes_of[end] is None


@pytest.mark.parametrize(
    "template",
    [
        "{% for message in messages %}{{ message.role }}: {{ message.content[0].text }}\n{% endfor %}",
        "{{ raise_exception('no assistants') if messages | length > 1 else messages[0].content[0].text }}",
        "{{ messages[0].content + messages[1].content + '<|im_start|>' }}",  # content must be a string, it thinks
    ],
)
def test_where_the_template_says_nothing_answers_end_with_eos(bytes_tokenizer, template):
    bytes_tokenizer.chat_template = template
    bytes_tokenizer.eos_token = "<|endoftext|>"
    assert end_of_answer(bytes_tokenizer) == bytes_tokenizer.convert_tokens_to_ids("<|endoftext|>")
    bytes_tokenizer.eos_token = None
    with pytest.raises(ValueError, match=r"nothing says which token ends an answer.*\(eos_token\)"):
        vocabulary(bytes_tokenizer)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages[0].content[0].text }}{{ messages[0].content[-1].text }}", "does not keep"),  # no images
        (
            "{{ '<|image_pad|>' * 2 }}{{ messages[0].content[0].text }}{{ messages[0].content[-1].text }}",
            "not keep",
        ),
        ("{{ messages[0].content + 'x' }}", "can not write a turn of text and images"),
        ("{{ raise_exception('only text, please') }}", r"can not write a turn .*\(only text, please\)"),
        ("{% for", "can not write a turn"),
    ],
)
def test_templates_that_can_not_be_cut_are_refused(bytes_tokenizer, template, message):
    bytes_tokenizer.chat_template = template
    with pytest.raises(ValueError, match=message):
        user_turn(bytes_tokenizer, 2)


def test_the_stand_in_for_a_missing_template_wants_its_special_tokens(gemma_tokenizer, bytes_tokenizer):
    turn = user_turn(bytes_tokenizer, 2)  # brings no template, but the tokens
    assert not turn.trims and turn.closing[0] == end_of_answer(bytes_tokenizer)
    tokenizer = gemma_tokenizer.__wrapped__(False)
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match=r"no chat template, nor <\|im_start\|> and <\|im_end\|>"):
        user_turn(tokenizer, 1)
    assert end_of_answer(tokenizer) == tokenizer.eos_token_id


def test_image_tokens_that_are_not_special_are_no_text(gemma_tokenizer, tiny_gemma, signal):
    tokenizer = gemma_tokenizer(False)
    boi = tiny_gemma.boi_token_id
    assert vocabulary(tokenizer).bytes_of[boi] == b"<start_of_image>"  # as far as the tokenizer knows
    table = vocabulary(tokenizer, tiny_gemma.vocab_size, tiny_gemma.special_ids)
    assert {table.bytes_of[token] for token in tiny_gemma.special_ids} == {None}
    assert set(table.bytes_of[len(tokenizer) :]) == {None} and table.size > len(tokenizer)
    evil = replace(signal, phrases=("<start_of_image>", "green"))
    span = tiny_gemma.image_span(16, 16)
    with pytest.raises(ValueError, match=rf"' <start_of_image>' was encoded to .* not text: \[{boi}\]"):
        make_prompt(evil, tokenizer, span, 1, True, reserved=tiny_gemma.special_ids)
    prompt = make_prompt(evil, gemma_tokenizer(True), span, 1, True, reserved=tiny_gemma.special_ids)
    ids = packed(prompt, 1, 0)[0]
    assert ids.count(boi) == 1 and " <start_of_image>" in decode_answer(vocabulary(gemma_tokenizer(True)), ids)
    with pytest.raises(ValueError, match="ends an answer in the tokenizer and belongs to images"):
        vocabulary(tokenizer, reserved=(end_of_answer(tokenizer),))


def test_bytes_of_added_tokens_are_what_the_tokenizer_decodes(gemma_tokenizer):
    tokenizer = gemma_tokenizer(False)
    table = vocabulary(tokenizer)
    rng = np.random.default_rng(0)
    pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    # without single bytes, which need not be text
    ids = [i for i, piece in enumerate(pieces) if table.bytes_of[i] is not None and not piece.startswith("<0x")]
    for _ in range(20):
        chosen = rng.choice(ids, 12).tolist()
        assert decode_answer(table, chosen) == tokenizer.decode(chosen, clean_up_tokenization_spaces=False)
    runs = tokenizer.convert_tokens_to_ids(["\u2581\u2581\u2581", "\n\n"])
    assert [table.bytes_of[i] for i in runs] == [b"   ", b"\n\n"]
