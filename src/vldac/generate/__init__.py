"""Open questions, with pictures, answered in words: what benchmarks and a served model ask of a VLM.

Training answers one prompt of one shape thousands of times (`vldac.policy`); here every conversation differs.
"""

from vldac.generate.engine import Engine, Stream
from vldac.generate.request import Message, Reply, Request, Video, images_of

__all__ = ["Engine", "Message", "Reply", "Request", "Stream", "Video", "images_of"]
