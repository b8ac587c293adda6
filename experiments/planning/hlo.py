"""What a compiled program sends between devices, read from its text.

The compiler's own cost analysis counts the body of a loop once; here every instruction counts as
often as its loops run. A loop that may end early, such as decoding, counts the most it may run.
"""

import collections
import dataclasses
import math
import re

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
BYTES = {"f64": 8, "s64": 8, "u64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "s16": 2,
         "u16": 2, "s8": 1, "u8": 1, "pred": 1}  # fmt: skip

_HEADER = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\(")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)|branch_computations=\{(.*?)\}"
)
_SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_CONSTANT = re.compile(r"%?([\w.\-]+) = [su]32\[\]\S* constant\((\d+)\)")
_COUNTER = re.compile(r"[su]32\[\]\S* get-tuple-element\(.*?\), index=(\d+)")
_GROUPS = re.compile(r"replica_groups=(?:\[(\d+),(\d+)\]|\{\{([\d,]*)\})")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One exchange between devices."""

    kind: str
    bytes: float  # that leave a device in one go, around a ring of the devices that take part
    devices: int  # that take part in one exchange
    times: int


def collectives_of(text: str) -> list[Collective]:
    """Of a compiled program, from `jax.stages.Compiled.as_text()`."""
    bodies = _computations(text)
    entry = re.search(r"^ENTRY %?([\w.\-]+) ", text, re.MULTILINE)
    if entry is None:
        raise ValueError("the text has no ENTRY computation: it is not a compiled program")
    times = _times(bodies, entry.group(1))
    devices = re.search(r"num_partitions=(\d+)", text)
    everyone = int(devices.group(1)) if devices else 1
    seen: set[tuple[str | None, ...]] = set()
    found = []
    for name, lines in bodies.items():
        for line in lines:
            instruction = _INSTRUCTION.match(line)
            kind = instruction and instruction.group(3).removesuffix("-start")
            if instruction is None or kind not in KINDS or not times[name]:
                continue
            # Parts of one asynchronous exchange repeat its channel, shape and origin; exchanges
            # that the program writes out itself may share a channel, but nothing else.
            channel = re.search(r"channel_id=\d+", line)
            origin = re.search(r'op_name="[^"]*"', line)
            shape = re.sub(r"\{.*?\}", "", instruction.group(2))
            mark = kind, shape, *(part and part.group(0) for part in (channel, origin))
            if channel and mark in seen:
                continue
            seen.add(mark)
            group = _group(line, everyone)
            sizes = _sizes(instruction.group(2))
            # A started exchange names what it reads beside what it writes.
            size = max(sizes) if instruction.group(3).endswith("-start") else sum(sizes)
            if group > 1:
                found.append(Collective(kind, _sent(kind, size, group), group, times[name]))
    return found


def _sent(kind: str, size: int, group: int) -> float:
    """Bytes that leave each device, of an exchange whose result on it has `size` bytes."""
    share = (group - 1) / group
    return {
        "all-gather": size * share,
        "all-reduce": 2 * size * share,
        "reduce-scatter": size * (group - 1),  # the result is a share of what was summed
        "all-to-all": size * share,
        "collective-permute": float(size),
    }[kind]


def _computations(text: str) -> dict[str, list[str]]:
    bodies: dict[str, list[str]] = {}
    current: list[str] = []
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            current = bodies.setdefault(header.group(1), [])
        elif line.startswith(" "):
            current.append(line)
    return bodies


def _times(bodies: dict[str, list[str]], entry: str) -> dict[str, int]:
    """How often each computation runs."""
    calls = collections.defaultdict(list)  # (callee, times) of a computation
    for name, lines in bodies.items():
        for line in lines:
            called = [
                other.strip().lstrip("%")
                for match in _CALLED.findall(line)
                for other in (match[0] or match[1]).split(",")
            ]
            often = _trips(line, bodies) if " while(" in line else 1
            calls[name] += [(other, often) for other in called if other in bodies]
    times: dict[str, int] = collections.defaultdict(int)

    def visit(name: str, often: int) -> None:
        times[name] += often
        for other, trips in calls[name]:
            visit(other, often * trips)

    visit(entry, 1)
    return times


def _trips(line: str, bodies: dict[str, list[str]]) -> int:
    """Of a loop whose counter starts at zero and is compared with a constant."""
    known = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
    if known:
        return int(known.group(1))
    condition, body = (
        "\n".join(bodies.get(found.group(1), [])) if found else ""
        for found in (re.search(rf"{part}=%?([\w.\-]+)", line) for part in ("condition", "body"))
    )
    limit = max((int(value) for _, value in _CONSTANT.findall(condition)), default=1)
    counters = [int(index) for index in _COUNTER.findall(condition)]
    return -(-limit // max((_step(body, index) for index in counters), default=1))


def _step(body: str, index: int) -> int:
    """By how much a turn of the loop moves the counter at that place of what it carries."""
    root = re.search(r"ROOT \S+ = \(.*\) tuple\((.*?)\)", re.sub(r"/\*.*?\*/", "", body))
    operands = [name.strip().lstrip("%") for name in root.group(1).split(",")] if root else []
    if index >= len(operands):
        return 1
    added = re.search(rf"%?{re.escape(operands[index])} = \S+ add\((.*?)\)", body)
    constants = dict(_CONSTANT.findall(body))
    names = [name.strip().lstrip("%") for name in added.group(1).split(",")] if added else []
    return max((int(constants[name]) for name in names if name in constants), default=1)


def _group(line: str, everyone: int) -> int:
    found = _GROUPS.search(line)
    if found is None:
        return 2 if "source_target_pairs" in line else everyone
    _, size, listed = found.groups()
    return int(size) if size else len(listed.split(",")) if listed else everyone


def _sizes(shape: str) -> list[int]:
    """Bytes of each array of a result."""
    return [
        BYTES.get(kind, 4) * math.prod(int(n) for n in dims.split(",") if n)
        for kind, dims in _SHAPE.findall(shape)
    ]
