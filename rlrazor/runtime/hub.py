"""Where a released model lies: a folder as it is, or a hub id fetched to this machine's cache."""

import re
from pathlib import Path

# What this project reads or copies; weights in formats that run code when read are left there.
FETCHED = ("*.json", "*.safetensors", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


def find_model(source: str | Path) -> Path:
    """The folder itself, or the one that `owner/name` or `owner/name@revision` was fetched to.

    Fetching takes whole files, once a machine (`HF_HOME` says where to); with `HF_HUB_OFFLINE=1` it
    takes what is there. ValueError says what is wrong with the source, or why it cannot be fetched.
    """
    if Path(source).is_dir():
        return Path(source)
    if isinstance(source, Path) or not HUB_ID.fullmatch(source):
        raise ValueError(
            f"there is no folder {source}, and it is not a hub id either; give a folder with a "
            "config.json, or an id such as 'Qwen/Qwen2.5-3B' or 'Qwen/Qwen2.5-3B@<commit>'"
        )
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ValueError(
            f"fetching {source} needs the huggingface_hub package: pip install 'rlrazor[hub]', or "
            "give a folder"
        ) from error
    name, _, revision = source.partition("@")
    try:
        return Path(
            snapshot_download(name, revision=revision or None, allow_patterns=list(FETCHED))
        )
    except (OSError, ValueError) as error:  # what its network, cache and name errors derive from
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"there is no folder {source}, and it cannot be fetched from the hub ({reason[0]})"
        ) from error
