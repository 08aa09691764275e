"""The engine says what transformers' own `generate` says: prompt, pictures, video and answer, all of it theirs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from tests.vldac.test_policy_parity import PREPROCESSOR, qwen2_vl
from vldac.generate import Message, Request, Video
from vldac.models import Qwen2VL, hf
from vldac.text.chat import CHAT_TEMPLATE
from vldac.text.tokenizer import IMAGE, VIDEO

from .conftest import picture, text_of

ANSWER = 24


@pytest.fixture(scope="module")
def theirs(model):
    config = qwen2_vl(model.config)
    made = transformers.Qwen2VLForConditionalGeneration(config).eval()
    tensors = {name: torch.tensor(value) for name, value in hf.to_hf(Qwen2VL, model.params).items()}
    missing, unexpected = made.load_state_dict(tensors, strict=False)
    assert missing == ["lm_head.weight"] and not unexpected
    return made


def generate(theirs, model, messages) -> str:
    """With their processor's steps, written out; nothing that we never write may be written."""
    turns, images, videos, tokens = [], [], [], []
    for message in messages:
        content = []
        for part in message.parts:
            if isinstance(part, str):
                content.append({"type": "text", "text": part})
                continue
            content.append({"type": "image"})
            (videos if isinstance(part, Video) else images).append(part)
            height, width = (part.frames[0] if isinstance(part, Video) else part).shape[:2]
            steps = len(part.frames) // 2 if isinstance(part, Video) else 1
            kind = VIDEO if isinstance(part, Video) else IMAGE
            tokens.append(kind * (steps * (height // 8) * (width // 8)))
        turns.append({"role": message.role, "content": content})
    text = model.tokenizer.apply_chat_template(
        turns, chat_template=CHAT_TEMPLATE, tokenize=False, add_generation_prompt=True
    )
    before, *rest = text.split(IMAGE)
    text = before + "".join(kind + piece for kind, piece in zip(tokens, rest, strict=True))
    ids = torch.tensor([model.tokenizer(text, add_special_tokens=False).input_ids])
    video_id = model.tokenizer.convert_tokens_to_ids(VIDEO)
    assert theirs.config.video_token_id == video_id or not videos
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    inputs["mm_token_type_ids"] = (ids == model.config.image_token_id).int() + 2 * (ids == video_id).int()
    processor = Qwen2VLImageProcessorPil(**PREPROCESSOR)
    if images:
        inputs |= processor(images, return_tensors="pt")
    if videos:
        (video,) = videos  # patches of both frames of a step: their image processor's, of either, half by half
        frames = [processor([frame], return_tensors="pt")["pixel_values"] for frame in video.frames]
        steps = []
        for first, second in zip(frames[::2], frames[1::2], strict=True):
            shape = len(first), 3, 2, -1
            both = torch.stack([first.reshape(shape)[:, :, 0], second.reshape(shape)[:, :, 1]], dim=2)
            steps.append(both.reshape(len(first), -1))
        height, width = video.frames.shape[1:3]
        inputs["pixel_values_videos"] = torch.cat(steps)
        inputs["video_grid_thw"] = torch.tensor([[len(steps), height // 4, width // 4]])
    ends = sorted({model.vocabulary.eos_id, model.tokenizer.eos_token_id})
    banned = [n for n, text in enumerate(model.vocabulary.bytes_of) if text is None and n not in ends]
    written = theirs.generate(
        **inputs,
        max_new_tokens=ANSWER,
        do_sample=False,
        suppress_tokens=banned,
        eos_token_id=ends,
        pad_token_id=model.vocabulary.pad_id,
    )
    return text_of(model, written[0, ids.shape[1] :].tolist())


def user(*parts) -> Message:
    return Message("user", parts)


CONVERSATIONS = {
    "words": (user("Which colour?"),),
    "a system, two turns, three pictures": (
        Message("system", ("Be brief.",)),
        user(picture(0), " or ", picture(1, 16, 24), "?"),
        Message("assistant", ("The first.",)),
        user("And ", picture(2, 32, 16)),
    ),
    "a video of three steps": (
        user("a film: ", Video(np.stack([picture(n, 32, 24) for n in range(6)])), picture(8), " what?"),
    ),
}


def test_greedy_answers_are_transformers_own(model, theirs):
    theirs.config.video_token_id = theirs.model.config.video_token_id = model.tokenizer.convert_tokens_to_ids(
        VIDEO
    )
    requests = [Request(messages, max_tokens=ANSWER) for messages in CONVERSATIONS.values()]
    with model.engine(lanes=2) as engine:
        replies = engine.answer(requests)
    for (name, messages), reply in zip(CONVERSATIONS.items(), replies, strict=True):
        assert reply.text == generate(theirs, model, messages), name
    assert len({reply.text for reply in replies}) == len(replies)
