"""Fine-tuning a released language model on questions with answers: SFT or GRPO, on any mesh.

Command:  python experiments/finetune.py --config=configs/finetune.py:grpo --config.model=DIR_OR_ID
          --config.data.path=train.jsonl --workdir=DIR
Modes:    `:sft`    imitates the answers of the data
          `:grpo`   answers by itself and is rewarded for right final answers
Settings: RL's Razor (arXiv 2509.04259), Qwen2.5-3B-Instruct: AdamW, bf16, 50 warm-up steps, SFT
          in batches of 16 to 128, GRPO with 8 prompts x 64 answers, no KL penalty
Hardware: `experiments/plan.py` says what fits where, and how long it takes at least
"""

from typing import Any

from ml_collections import ConfigDict


def get_config(mode: str = "sft") -> ConfigDict:
    if mode not in ("sft", "grpo"):
        raise ValueError(f"mode={mode!r} must be sft or grpo")
    config: Any = ConfigDict()
    config.model = "Qwen/Qwen2.5-3B-Instruct"  # a folder, or an id of the Hugging Face hub
    config.method = mode
    config.seed = 0
    config.steps = 500
    config.data = ConfigDict(
        {
            "path": "",  # JSON lines of {"messages": [...]}, or with the two fields named below
            "test_path": "",  # likewise, held out: accuracy and KL on the new task
            "asked": "question",
            "answer": "answer",
            "system": "",  # put before conversations without a system message
        }
    )
    # Prior tasks by name, files like those above: what is forgotten. `--config.prior.gsm8k=FILE`
    config.prior = ConfigDict({"gsm8k": "", "mmlu": ""})
    config.rows = 64  # conversations of an SFT step
    config.prompts = 8  # of a GRPO step ...
    config.samples = 64  # ... and answers to each
    config.temperature = 1.0
    config.answer_tokens = 1024
    config.prompt_buckets = (256, 512)  # every length is padded to one of these, and
    config.row_buckets = (512, 1024, 2048)  # every one of them is compiled once
    config.clip_low = 0.2
    config.clip_high = 0.2

    config.learning_rate = 1e-5 if mode == "sft" else 1e-6
    config.warmup_steps = 50
    config.cosine = False
    config.weight_decay = 0.0
    config.clip_by_global_norm = 1.0

    config.param_dtype = "float32"  # "bfloat16" as in the paper loses small updates, unless
    config.masters = False  # the optimizer keeps copies of them in float32
    config.mu_dtype = "float32"  # AdamW's first moment, and
    config.nu_dtype = "float32"  # its second
    config.compute_dtype = "bfloat16"
    config.remat = "full"
    config.attention = "auto"
    config.rows_at_once = 1  # of a device, whose gradient is worked out in one go
    config.vocabulary_chunk = 256  # tokens of a row whose logits are in memory at a time
    config.mesh = ConfigDict({"data": 1, "fsdp": 0, "tensor": 1})  # 0: all that are left

    config.lora = ConfigDict({"rank": 0, "alpha": 32.0, "targets": ("layers/.*",)})  # 0: off

    config.test_every = 50  # steps between two measurements on the held-out data
    config.test_prompts = 128
    config.log_every = 1
    config.checkpoint_every_seconds = 600.0
    config.save_model = True  # into WORKDIR/model when done, as transformers reads it
    config.tensorboard = True
    config.dry_run = False  # compile everything, say what it needs, stop
    config.profile = 0  # steps to trace into WORKDIR/profile, after the first two
    return config
