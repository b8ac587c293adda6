"""The theory of RL's Razor on policies small enough to enumerate, one part a file.

`run` of each part maps its config to records (see records.py), the lines of theory.jsonl.
"""
