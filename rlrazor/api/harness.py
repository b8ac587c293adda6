"""EleutherAI's lm-evaluation-harness on our programs: a model for it, and a measurement of studies.

    results = evaluate(HarnessModel(base), ["hellaswag"], limit=200)       # in a program
    lm_eval run --model rlrazor --model_args model=DIR --tasks hellaswag   # its own command

The harness makes requests and scores what comes back; the first process drives it, and the others
compute beside it.
"""

import contextlib
import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from rlrazor.api.harness_columns import columns_of
from rlrazor.api.model import Pretrained, load
from rlrazor.models.pretrained_config import CONFIG
from rlrazor.runtime.distributed import is_writer, to_host
from rlrazor.runtime.mesh import global_rows
from rlrazor.runtime.tensor_files import read_json
from rlrazor.sampling.decode import Sampling
from rlrazor.studies.endings import Batch, batches, collected, rows_of, scorer
from rlrazor.studies.host import padded, prompt_rows
from rlrazor.studies.questions import answerer
from rlrazor.studies.study import Columns
from rlrazor.studies.world import Measurement
from rlrazor.types import Params

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError as error:
    raise ImportError(
        "lm-evaluation-harness is not installed: pip install 'rlrazor[harness]'"
    ) from error

DONE, SCORE, ANSWER = range(3)  # what the first process tells the others to do


class HarnessModel(TemplateLM):
    """A model as the harness asks it, with its own parameters or those that are being trained.

    `model` is a `load`ed one, or what `load` takes. Texts are cut into ids as the harness's own
    backend for transformers does: with the tokenizer's special tokens, unless a text begins with
    them.
    """

    def __init__(
        self,
        model: Pretrained | str | Path,
        *,
        rows_at_once: int = 16,  # of a device
        max_length: int | None = None,  # tokens of a row; None: what its config names
        batch_size: Any = None,  # the harness's own settings for backends, which are not used
        max_batch_size: Any = None,
        device: Any = None,
        **loading: Any,
    ):
        super().__init__()
        self.base = model if isinstance(model, Pretrained) else load(model, **loading)
        self.params: Params = self.base.params
        self.tokenizer = self.base.chat.tokenizer
        self.rows_at_once = int(rows_at_once)
        self.max_length = int(max_length or _longest(self.base.folder))
        self._score = scorer(self.base.policy)
        self._answerers: dict[tuple[int, float], Any] = {}

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        begin = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else begin

    @property
    def max_gen_toks(self) -> int:
        return 256

    @property
    def tokenizer_name(self) -> str:
        return self.base.name.replace("/", "__")

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        return self.tokenizer.apply_chat_template(
            chat_history,
            chat_template=self.base.chat.template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
            **self.base.chat.variables,
        )

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        if add_special_tokens is None:
            begun = self.tokenizer.decode([self.prefix_token_id])
            add_special_tokens = not string.startswith(begun)
        return self.tokenizer.encode(string, add_special_tokens=add_special_tokens)

    def _loglikelihood_tokens(
        self, requests: Sequence[Any], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        cut = [self._cut(context, ending) for _, context, ending in requests]
        planned = list(batches(cut, rows=self.rows_at_once, policy=self.base.policy))
        bar = tqdm(
            planned, desc="harness: scoring", unit="batch", leave=False, disable=disable_tqdm
        )
        found = collected([(batch, self._told_to_score(batch)) for batch in bar], len(requests))
        for (texts, _, _), score in zip(requests, found, strict=True):
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, score)
        return found

    def _cut(self, context: Sequence[int], ending: Sequence[int]) -> tuple[Any, Any]:
        """The last token is read by nobody, so a row may have one more than `max_length`."""
        if len(ending) > self.max_length:
            raise ValueError(
                f"an ending of {len(ending)} tokens does not fit max_length={self.max_length}"
            )
        return context[-(self.max_length + 1 - len(ending)) :], ending

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        windows, of_request = [], []
        for n, request in enumerate(requests):
            (text,) = request.args
            cut = get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            mine = [(None, *make_disjoint_window(window)) for window in cut]
            windows += mine
            of_request += [n] * len(mine)
        scores = self._loglikelihood_tokens(windows, disable_tqdm)
        totals = np.zeros(len(requests))
        np.add.at(totals, of_request, [nats for nats, _ in scores])
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, float(total))
        return totals.tolist()

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        said = [""] * len(requests)
        asked = [
            (*_generation(request.args[1], self.max_gen_toks), n)
            for n, request in enumerate(requests)
        ]
        with tqdm(
            total=len(asked), desc="harness: answering", leave=False, disable=disable_tqdm
        ) as bar:
            for tokens, temperature in sorted({each[:2] for each in asked}):
                same = [each for each in asked if each[:2] == (tokens, temperature)]
                room = self.max_length - tokens
                if room < 1:
                    raise ValueError(
                        f"answers of {tokens} tokens leave no room for a question in "
                        f"max_length={self.max_length}; lower max_gen_toks"
                    )
                prompts = {n: self.tok_encode(requests[n].args[0])[-room:] for *_, n in same}
                order = sorted(prompts, key=lambda n: len(prompts[n]))
                for first in range(0, len(order), self.rows_at_once):
                    some = order[first : first + self.rows_at_once]
                    ids = [prompts[n] for n in some]
                    answered = self._told_to_answer(ids, tokens, temperature, first)
                    for n, answer in zip(some, answered, strict=True):
                        said[n] = answer
                    bar.update(len(some))
        for n, (_, _, until, _) in enumerate(asked):
            ends = [place for place in map(said[n].find, until) if place >= 0]
            said[n] = said[n][: min(ends, default=None)]
            self.cache_hook.add_partial("generate_until", requests[n].args, said[n])
        return said

    # Every process must call a program of several hosts; only the first knows the requests.

    def _told_to_score(self, batch: Batch) -> Any:
        numbers = [SCORE, *batch.tokens.shape, batch.prompt_size, batch.samples]
        _tell(numbers, batch.tokens, batch.prompt_count, batch.count)
        return self._scored(batch)

    def _scored(self, batch: Batch) -> Any:
        mesh = self.base.policy.mesh
        rows = rows_of(batch, lambda arrays: global_rows(arrays, mesh))
        return to_host(self._score(self.params, rows))

    def _told_to_answer(
        self, prompts: Sequence[list[int]], tokens: int, temperature: float, part: int
    ) -> list[str]:
        asked = [*prompts, *[prompts[-1]] * (self.rows_at_once - len(prompts))]
        table = padded(asked, _power_of_two(max(map(len, asked))), np.int32)
        count = np.array([len(ids) for ids in asked], np.int32)
        bits = int(np.float32(temperature).view(np.int32))
        _tell([ANSWER, *table.shape, tokens, bits, part], table, count)
        rows = self._answered(table, count, tokens, temperature, part)
        found = zip(rows.tokens, rows.mask, strict=True)
        texts = [self.tokenizer.decode(t[m].tolist(), skip_special_tokens=True) for t, m in found]
        return texts[: len(prompts)]

    def _answered(
        self, table: np.ndarray, count: np.ndarray, tokens: int, temperature: float, part: int
    ) -> Any:
        how = tokens, temperature
        if how not in self._answerers:
            policy = self.base.language
            answers = dataclasses.replace(policy.answers, tokens=tokens)
            policy = dataclasses.replace(policy, answers=answers)
            self._answerers[how] = answerer(policy, Sampling(temperature))
        prompts = [row[:n] for row, n in zip(table, count, strict=True)]
        rows = prompt_rows(prompts, [table.shape[1]], self.base.policy.mesh)
        key = jax.random.fold_in(jax.random.key(0), part)
        return to_host(self._answerers[how](self.params, rows, key))

    def follow(self) -> None:
        """What every process but the first does meanwhile: computes what it is told, to the end."""
        while True:
            kind, B, T, *numbers = _hear(np.zeros(6, np.int32)).tolist()
            if kind == DONE:
                return
            tokens, count = np.zeros((B, T), np.int32), np.zeros(B, np.int32)
            if kind == SCORE:
                tokens, prompt_count, total = map(_hear, (tokens, count, count))
                self._scored(Batch(tokens, prompt_count, total, *numbers[:2], places=count))
            else:
                tokens, count = map(_hear, (tokens, count))
                temperature = float(np.int32(numbers[1]).view(np.float32))
                self._answered(tokens, count, numbers[0], temperature, numbers[2])


register_model("rlrazor")(HarnessModel)


def evaluate(model: HarnessModel, tasks: Sequence[Any], **settings: Any) -> dict[str, Any] | None:
    """Results as `lm_eval.simple_evaluate` gives them; None on every process but the first.

    `tasks` are names, paths of task files (which end with .yaml) or configs; `settings` are the
    harness's own (limit, num_fewshot, apply_chat_template, ...).
    """
    if not is_writer():
        return model.follow()
    import lm_eval

    simple_evaluate: Any = lm_eval.simple_evaluate
    named = [str(Path(task).resolve()) if str(task).endswith(".yaml") else task for task in tasks]
    settings = {"bootstrap_iters": 0, **settings}  # intervals are ours
    try:
        with _quiet():
            found = simple_evaluate(model=model, tasks=named, **settings)
    finally:
        _tell([DONE])
    return found


def harness(
    base: Pretrained,
    tasks: Mapping[str, Any],
    *,
    limit: int | None = None,
    rows_at_once: int = 16,
    max_length: int | None = None,
    **settings: Any,
) -> Measurement:
    """Tasks of the harness as prior tasks, by name: `prior/<name>/accuracy` and its like.

    A value is the harness's name of a task or group, a config of one, or the path of its file.
    Each metric of the harness is a column of its own name; `accuracy` is the first of
    `harness_columns.RIGHT` that the task has, whose outcomes are kept, and `gold_nats` the mean
    NLL of the right choice.
    """
    from lm_eval.tasks import TaskManager

    model = HarnessModel(base, rows_at_once=rows_at_once, max_length=max_length)
    if is_writer() and "task_manager" not in settings:
        settings["task_manager"] = TaskManager()  # reads some thousand files, once

    def of(params: Params, base: Params, kept: Any, key: jax.Array) -> Columns:
        model.params = params
        columns: dict[str, Any] = {}
        for name, task in tasks.items():
            found = evaluate(model, [task], limit=limit, **settings)
            columns |= _shared(columns_of(found, f"prior/{name}") if found else {})
        model.params = model.base.params
        return columns

    return Measurement("prior", of, beside=[f"{name}/accuracy" for name in tasks])


def _longest(folder: Path) -> int:
    fields = read_json(folder / CONFIG)
    return min(fields.get("max_position_embeddings") or 2048, 8192)


def _generation(settings: Mapping[str, Any], most: int) -> tuple[int, float, tuple[str, ...]]:
    """Tokens, temperature and what ends an answer. ValueError for what is not done here."""
    asked = dict(settings)
    until = asked.pop("until", None) or ()
    tokens = int(asked.pop("max_gen_toks", None) or asked.pop("max_tokens", None) or most)
    temperature = float(asked.pop("temperature", 0.0) or 0.0)
    if not asked.pop("do_sample", temperature > 0):
        temperature = 0.0
    for name, nothing in (("top_p", 1.0), ("top_k", 0)):
        if asked.pop(name, nothing) not in (nothing, None, 0):
            raise ValueError(f"generation_kwargs has {name}={settings[name]}; it is not supported")
    return tokens, temperature, (until,) if isinstance(until, str) else tuple(until)


def _power_of_two(count: int) -> int:
    return 1 << max(count - 1, 15).bit_length()


def _tell(numbers: Sequence[int], *arrays: np.ndarray) -> None:
    """To the other processes, where there are any, what to compute and on what."""
    if jax.process_count() > 1:
        order = np.zeros(6, np.int32)
        order[: len(numbers)] = numbers
        for array in (order, *arrays):
            multihost_utils.broadcast_one_to_all(array)


def _hear(like: np.ndarray) -> np.ndarray:
    return np.asarray(multihost_utils.broadcast_one_to_all(like))


def _shared(columns: dict[str, Any]) -> dict[str, Any]:
    """The first process's columns, on all."""
    if jax.process_count() == 1:
        return columns
    text = np.frombuffer(json.dumps(columns).encode(), np.uint8)
    size = int(_hear(np.array(len(text))))
    text = text if is_writer() else np.zeros(size, np.uint8)
    return json.loads(_hear(text).tobytes())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the harness's account of each step; warnings stay."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


if __name__ == "__main__":  # its own command, in versions that look for no entry points
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
