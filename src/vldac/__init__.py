"""VL-DAC training of vision-language models, from rendered world to parameter update in jitted JAX."""

import os

# transformers would say on standard error that there is no PyTorch: here that is as it should be.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

__version__ = "0.1.0"
