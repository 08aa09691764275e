"""VL-DAC training of vision-language models, from rendered world to parameter update in one jitted program."""

__version__ = "0.1.0"
