"""Any methods on your own model, questions and judge, both axes measured on every run.

Command:  python experiments/finetune.py --config=configs/finetune.py:grpo --workdir=DIR \\
              --config.model=FOLDER --config.data.path=TRAIN.jsonl \\
              --config.data.test_path=TEST.jsonl --config.shift.harder=OTHER.jsonl \\
              --config.prior.mmlu=MMLU.jsonl
Modes:    `:sft`    imitates the assistant's side of conversations
          `:grpo`   answers by itself and is rewarded for right final answers
          `:both`   one after the other, at the same FLOPs; any methods by `--config.arms`
Settings: RL's Razor (arXiv 2509.04259), Qwen2.5-3B-Instruct: AdamW, bf16, 50 warm-up steps, SFT
          in batches of 16 to 128 at 1e-5 to 5e-5, GRPO with 8 prompts x 64 answers, no KL penalty
Hardware: `experiments/plan.py` says what fits where, and how long it takes at least
"""

from typing import Any

from ml_collections import ConfigDict

from configs.names import Names

MODES = {"sft": ("sft",), "grpo": ("grpo",), "both": ("sft", "grpo")}


def get_config(mode: str = "sft") -> ConfigDict:
    if mode not in MODES:
        raise ValueError(f"mode={mode!r} must be {', '.join(MODES)}")
    config: Any = ConfigDict()
    config.study = "finetune"
    config.model = "Qwen/Qwen2.5-3B-Instruct"  # a folder, or an id of the Hugging Face hub
    config.arms = MODES[mode]  # methods, by their names; docs/methods.md has all
    config.seeds = (0,)
    config.learning_rates = Names({"sft": (1e-5,), "grpo": (1e-6,)})  # one or more of each method
    config.methods = Names()  # knobs by method, `--config.methods.grpo.clip_high=0.28`
    config.steps = 500  # of the dearest arm; the others get the same FLOPs,
    config.matched_flops = True  # or as many steps

    config.data = ConfigDict(
        {
            "path": "",  # JSON lines of {"messages": [...]}, or with the two fields named below
            "test_path": "",  # likewise, held out: accuracy and KL on the new task
            "asked": "question",
            "answer": "answer",
            "system": "",  # put before conversations without a system message
        }
    )
    # Other versions of the task by any name: what generalizes. `--config.shift.harder=FILE`
    config.shift = Names()
    # Prior tasks by any name: what is forgotten. `--config.prior.gsm8k=FILE`
    config.prior = Names()
    config.prior_data = ConfigDict({"asked": "question", "answer": "answer", "system": ""})
    # Benchmarks of lm-evaluation-harness as further prior tasks: names of its own, or task files.
    config.harness = ConfigDict(
        {
            "tasks": (),
            "data": "",  # a folder with the benchmarks' published files; "": it downloads its own
            "limit": 200,  # documents of each task; 0: all
            "rows_at_once": 16,  # of a device
        }
    )
    config.judge = ""  # "module:function" of (prompts, answers, truths) -> rr.Verdicts; "": exact

    config.rows = 64  # conversations of a step of imitation
    config.prompts = 8  # of a step that samples ...
    config.samples = 64  # ... and answers to each
    config.minibatches = 1  # updates a step and epoch
    config.temperature = 1.0
    config.top_k = 0  # 0: every token
    config.top_p = 1.0
    config.answer_tokens = 1024
    config.prompt_buckets = (256, 512)  # every length is padded to one of these, and
    config.row_buckets = (512, 1024, 2048)  # every one of them is compiled once
    config.chat = ConfigDict(
        {
            "template": "",  # a Jinja file or "plain", for models without a template
            "date": "",  # what a template that asks for the day is told; "": 26 July 2024
        }
    )
    config.template_variables = Names()  # `--config.template_variables.enable_thinking=False`

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
    config.rows_at_once = 1  # microbatch of a device, whose gradient is worked out in one go
    config.vocabulary_chunk = 256  # tokens of a row whose logits are in memory at a time
    config.mesh = ConfigDict({"data": 1, "fsdp": 0, "tensor": 1})  # 0: all that are left

    config.lora = ConfigDict({"rank": 0, "alpha": 32.0, "targets": ("layers/.*",)})  # 0: off

    config.checkpoints = (0.1, 0.3, 0.6, 1.0)  # shares of a run after which it is measured
    config.test_examples = 128  # of every test file, chosen by `test_seed`
    config.test_seed = 0
    config.test_at_once = 32  # questions answered at a time
    config.log_every = 1
    config.checkpoint_every_seconds = 600.0
    config.save_model = True  # when a run is done, as transformers reads it
    config.tensorboard = True
    config.dry_run = False  # compile everything, say what it needs, stop
    config.profile = 0  # steps to trace into WORKDIR/profile, after the first two
    return config
