"""Makes a Hugging Face folder of a GGUF file: a model that every other command takes.

    python experiments/prepare_model.py --gguf=FILE --out=DIR [--dtype=bfloat16] [--overwrite]

Llama and Qwen2 models, with tokenizer and chat template; needs `pip install 'rlrazor[gguf]'`.
Quantised weights are expanded, so the model is the quantised one; DIR/README.md says so.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from absl import app, flags

from rlrazor.models.gguf_file import convert_gguf
from rlrazor.types import FloatName

_GGUF = flags.DEFINE_string("gguf", None, "What to read; of several parts, any.", required=True)
_OUT = flags.DEFINE_string("out", None, "The folder to make.", required=True)
_DTYPE = flags.DEFINE_enum(
    "dtype", "float32", get_args(FloatName), "What the weights are stored as."
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace an earlier folder of this command.")


def main(argv: Sequence[str]) -> int:
    try:
        if len(argv) > 1:
            raise ValueError(f"got {argv[1]!r}, but this takes flags only: --gguf and --out")
        out = Path(_OUT.value)
        dtype: Any = _DTYPE.value
        convert_gguf(_GGUF.value, out, dtype=dtype, overwrite=_OVERWRITE.value)
    except (ValueError, OSError) as error:
        print(f"prepare_model: {error}", file=sys.stderr)
        return 2
    size = sum(file.stat().st_size for file in out.glob("*.safetensors")) / 1e6
    print(f"{out}: {size:,.0f} MB of weights in {dtype}")
    print(f"use it as --config.model={out}")
    return 0


if __name__ == "__main__":
    app.run(main)
