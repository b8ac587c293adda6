"""The language benchmark's peers: plain PyTorch with transformers' Llama, and TRL's trainers.

    python experiments/benchmarks/torch_language.py transformers|trl_sft|trl_grpo|about JSON

A process of its own, which may belong to another interpreter. For each line it reads it does one
step or iteration and answers with one JSON line, the seconds it took; in between it idles.
"""

import functools
import importlib
import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

os.environ |= {"TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
PACKAGES = ("torch", "transformers", "trl")
ANSWERS, sys.stdout = sys.stdout, sys.stderr  # what libraries print is not an answer


def listen() -> dict[str, Any]:
    """The next request; ends the process when there is none."""
    line = sys.stdin.readline()
    if not line:
        ANSWERS.close()
        os._exit(0)  # trainers would go on
    return json.loads(line)


def answer(**values: Any) -> None:
    print(json.dumps(values), file=ANSWERS, flush=True)


def about() -> dict[str, Any]:
    """Versions of what is there, and whether PyTorch sees a GPU."""
    from importlib.metadata import version

    found = {p: version(p) for p in PACKAGES if importlib.util.find_spec(p)}
    cuda = False
    if "torch" in found:
        import torch  # pyright: ignore[reportMissingImports]

        cuda = torch.cuda.is_available()
    return {"versions": found, "cuda": cuda}


def make_model(settings: dict[str, Any]):
    library: Any = importlib.import_module("transformers")
    model = settings["model"]
    return library.LlamaForCausalLM(
        library.LlamaConfig(
            vocab_size=model["vocabulary"],
            hidden_size=model["width"],
            num_hidden_layers=model["layers"],
            num_attention_heads=model["heads"],
            num_key_value_heads=model["kv_heads"],
            head_dim=model["head_dim"],
            intermediate_size=model["mlp_width"],
            tie_word_embeddings=model["tied_head"],
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=0,
            attn_implementation="sdpa",
        )
    )


def plain(settings: dict[str, Any]) -> None:
    """A loop as one would write it: forward, backward, clip, AdamW; generate, score, update."""
    import torch  # pyright: ignore[reportMissingImports]
    from torch.nn.functional import cross_entropy  # pyright: ignore[reportMissingImports]

    s = settings["sizes"]
    device = "cuda" if settings["gpu"] else "cpu"
    V = settings["model"]["vocabulary"]
    model = make_model(settings).to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings["learning_rate"], weight_decay=0.0, fused=True
    )
    rows = torch.randint(V, (s["rows"], s["tokens"]), device=device)
    prompts = torch.randint(V, (s["prompts"], s["prompt_tokens"]), device=device)

    def logprobs(tokens):
        logits = model(tokens[:, :-1], use_cache=False).logits
        flat = cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
        return -flat.view(len(tokens), -1)

    def step(loss) -> None:
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings["clip_by_global_norm"])
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    def sft() -> dict[str, float]:
        start = time.perf_counter()
        step(-logprobs(rows).mean())
        return {"seconds": time.perf_counter() - start}

    def grpo() -> dict[str, float]:
        start = time.perf_counter()
        with torch.no_grad():
            tokens = model.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                do_sample=True,
                top_k=0,
                top_p=1.0,
                max_new_tokens=s["answer_tokens"],
                min_new_tokens=s["answer_tokens"],
                num_return_sequences=s["samples"],
            )
        rewards = (tokens[:, s["prompt_tokens"] :] % 2 == 0).float().mean(1)
        groups = rewards.view(s["prompts"], s["samples"])
        advantages = (groups - groups.mean(1, keepdim=True)).view(-1, 1)
        drawn = time.perf_counter()
        # On policy, so the behaviour's log-probabilities are the policy's own.
        chosen = logprobs(tokens)[:, s["prompt_tokens"] - 1 :]
        ratio = torch.exp(chosen - chosen.detach())
        clip = settings["clip"]
        surrogate = torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
        step(-surrogate.mean())
        end = time.perf_counter()
        return {"seconds": end - start, "rollout": drawn - start, "update": end - drawn}

    while True:
        answer(**{"sft": sft, "grpo": grpo}[listen()["task"]]())


def _symbols(settings: dict[str, Any]):
    """A tokenizer of V words, w0 w1 ..., and of texts of random words."""
    import random

    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast  # pyright: ignore[reportMissingImports]

    V = settings["model"]["vocabulary"]
    words = {f"w{i}": i for i in range(V)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="w0", eos_token=f"w{V - 1}", unk_token="w0"
    )
    draw = random.Random(0)

    def text(tokens: int) -> str:
        return " ".join(f"w{draw.randrange(1, V - 1)}" for _ in range(tokens))

    return fast, text


def _clock(trainer_callback: type) -> Any:
    """A callback that waits for a request before every step, and answers after it."""

    class Clock(trainer_callback):
        start = 0.0
        rollout = 0.0

        def on_step_begin(self, *_, **__):
            listen()
            self.start, self.rollout = time.perf_counter(), 0.0

        def on_step_end(self, *_, **__):
            seconds = time.perf_counter() - self.start
            answer(seconds=seconds, rollout=self.rollout, update=seconds - self.rollout)

    return Clock()


def trl(settings: dict[str, Any], *, grpo: bool) -> None:
    """TRL's own trainer, one optimizer step a request."""
    import trl  # pyright: ignore[reportMissingImports]
    from datasets import Dataset  # pyright: ignore[reportMissingImports]
    from transformers import TrainerCallback  # pyright: ignore[reportMissingImports]

    s = settings["sizes"]
    tokenizer, text = _symbols(settings)
    clock = _clock(TrainerCallback)
    common = {
        "output_dir": tempfile.mkdtemp(),
        "max_steps": 10_000,
        "learning_rate": settings["learning_rate"],
        "max_grad_norm": settings["clip_by_global_norm"],
        "use_cpu": not settings["gpu"],
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    if grpo:

        def reward(completion_ids, **_):
            return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]

        rows = Dataset.from_dict(
            {"prompt": [text(s["prompt_tokens"]) for _ in range(s["prompts"])]}
        )
        config = trl.GRPOConfig(
            **common,
            per_device_train_batch_size=s["prompts"] * s["samples"],
            num_generations=s["samples"],
            max_completion_length=s["answer_tokens"],
            generation_kwargs={"min_new_tokens": s["answer_tokens"]},
            beta=0.0,
        )
        trainer = trl.GRPOTrainer(
            make_model(settings),
            reward_funcs=reward,
            args=config,
            train_dataset=rows,
            processing_class=tokenizer,
            callbacks=[clock],
        )
        prepare = trainer._generate_and_score_completions

        @functools.wraps(prepare)
        def timed(*arguments, **named):
            start = time.perf_counter()
            prepared = prepare(*arguments, **named)
            clock.rollout += time.perf_counter() - start
            return prepared

        trainer._generate_and_score_completions = timed
    else:
        rows = Dataset.from_dict({"text": [text(s["tokens"] - 1) for _ in range(4 * s["rows"])]})
        config = trl.SFTConfig(
            **common,
            per_device_train_batch_size=s["rows"],
            max_length=s["tokens"],
        )
        trainer = trl.SFTTrainer(
            make_model(settings),
            args=config,
            train_dataset=rows,
            processing_class=tokenizer,
            callbacks=[clock],
        )
    trainer.train()


def _main(role: str, settings: dict[str, Any]) -> None:
    if role == "about":
        answer(**about())
        return
    import torch  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(settings["cores"])
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")  # as JAX does by default on a GPU
    roles: dict[str, Callable[..., None]] = {
        "transformers": plain,
        "trl_sft": functools.partial(trl, grpo=False),
        "trl_grpo": functools.partial(trl, grpo=True),
    }
    roles[role](settings)


if __name__ == "__main__":
    _main(sys.argv[1], json.loads(sys.argv[2]) if len(sys.argv) > 2 else {})
