"""The collectives of a compiled program, read from its HLO text.

In: the text that the compiler gives. Out: what a device receives from others, by kind, with loops
multiplied out. A loop whose number of turns is not in the text counts once, which is said.
"""

from collections.abc import Iterator
import dataclasses
import math
import re

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")
BYTES = {
    **dict.fromkeys(("pred", "s8", "u8", "s4", "u4", "f8e4m3fn", "f8e5m2"), 1),
    **dict.fromkeys(("s16", "u16", "f16", "bf16"), 2),
    **dict.fromkeys(("s32", "u32", "f32"), 4),
    **dict.fromkeys(("s64", "u64", "f64", "c64"), 8),
}
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_OPERATION = re.compile(r" ([a-z][a-z\-]*)\(")
_CALLED = re.compile(r"\b(?:calls|body|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_CONDITION = re.compile(r"\bcondition=%?([\w.\-]+)")
_TRIPS = re.compile(r'known_trip_count"?\s*[:=]\s*\{\s*"?n"?\s*[:=]\s*"?(\d+)')
_CONSTANT = re.compile(r"%?([\w.\-]+) = [su]\d+\[\]\S* constant\((\d+)\)")
_LESS = re.compile(r"ROOT .* compare\(([^)]*)\), direction=LT")


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What a device receives in one run of a program.

    count: collectives that are run.
    bytes: that arrive at one device from others.
    """

    count: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class Collectives:
    """The collectives of a program.

    by_kind: for each of `KINDS` that it has.
    at_least: some loop has a number of turns that the text does not tell, and counts once.
    """

    by_kind: dict[str, Traffic]
    at_least: bool = False

    @property
    def bytes(self) -> int:
        return sum(traffic.bytes for traffic in self.by_kind.values())


@dataclasses.dataclass
class _Sum:
    """Counts and bytes by kind."""

    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    bytes: dict[str, int] = dataclasses.field(default_factory=dict)
    at_least: bool = False

    def add(self, other: "_Sum", times: int = 1) -> None:
        for kind, count in other.counts.items():
            self.counts[kind] = self.counts.get(kind, 0) + times * count
            self.bytes[kind] = self.bytes.get(kind, 0) + times * other.bytes[kind]
        self.at_least |= other.at_least

    def put(self, kind: str, size: int) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.bytes[kind] = self.bytes.get(kind, 0) + size


def collectives(text: str, devices: int) -> Collectives:
    """The collectives of a program.

    Of a conditional, the branch with the most bytes counts.

    Args:
        text: HLO of the module that one device runs.
        devices: of the mesh; the size of a group where the text names none.
    """
    bodies = dict(_computations(text))
    entry = bodies.pop("")
    found: dict[str, _Sum] = {}

    def of(name: str) -> _Sum:
        if name not in found:
            found[name] = _Sum()  # computations do not call themselves
            found[name] = total(bodies.get(name, []))
        return found[name]

    def total(lines: list[str]) -> _Sum:
        result = _Sum()
        for line in lines:
            match = _OPERATION.search(line)
            if match is None:
                continue
            operation = match[1]
            if (kind := operation.removesuffix("-start")) in KINDS:
                size = _received(kind, line[: match.start()], line[match.end() :], devices)
                if size:
                    result.put(kind, size)
                continue
            if branches := _BRANCHES.search(line):
                names = [name.strip().lstrip("%") for name in branches[1].split(",")]
                result.add(max(map(of, names), key=lambda s: sum(s.bytes.values())))
                continue
            called = [of(name) for name in _CALLED.findall(line)]
            times = _turns(line, bodies) if operation == "while" else 1
            for one in called:
                if times is None and one.counts:
                    result.at_least = True
                result.add(one, times or 1)
        return result

    whole = total(entry)
    by_kind = {
        kind: Traffic(whole.counts[kind], whole.bytes[kind])
        for kind in KINDS
        if kind in whole.counts
    }
    return Collectives(by_kind, whole.at_least)


def _computations(text: str) -> Iterator[tuple[str, list[str]]]:
    """Name and lines of each computation; the entry's name is empty."""
    name, lines = "", []
    for line in text.splitlines():
        if begin := _COMPUTATION.match(line):
            name, lines = "" if begin[1] else begin[2], []
        elif line.startswith("}"):
            yield name, lines
        else:
            lines.append(line)


def _turns(line: str, bodies: dict[str, list[str]]) -> int | None:
    """The number of turns of a while loop; None if the text does not tell.

    A loop that counts from 0 to a constant tells it in its condition.
    """
    if known := _TRIPS.search(line):
        return int(known[1])
    condition = _CONDITION.search(line)
    lines = bodies.get(condition[1], []) if condition else []
    constants = {m[1]: int(m[2]) for m in map(_CONSTANT.search, lines) if m}
    for text in lines:
        if compared := _LESS.search(text):
            for name in re.findall(r"%?([\w.\-]+)", compared[1]):
                if name in constants:
                    return constants[name]
    return None


def _received(kind: str, result: str, rest: str, devices: int) -> int:
    """Bytes that one device gets from others by one collective.

    Args:
        result: what stands before the operation: name and shapes of the result.
        rest: operands and attributes.
    """
    sizes = [_bytes(*shape) for shape in _SHAPE.findall(result.partition(" = ")[2])]
    group = _group(rest, devices)
    if not sizes or group < 2:
        return 0
    # What starts an asynchronous collective returns its operands as well, and perhaps two counters.
    whole = (
        max(sizes)
        if "(" in result.partition(" = ")[2]
        and kind
        in (
            "all-gather",
            "collective-permute",
        )
        else sum(sizes)
    )
    factor = {
        "all-gather": (group - 1) / group,
        "reduce-scatter": group - 1,
        "all-reduce": 2 * (group - 1) / group,
        "all-to-all": (group - 1) / group,
        "collective-permute": 1,
    }[kind]
    return math.ceil(whole * factor)


def _group(rest: str, devices: int) -> int:
    """Devices that take part in one group."""
    if "source_target_pairs=" in rest:
        return devices
    if found := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return found[1].count(",") + 1
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]", rest):
        return int(found[2])
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", rest):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", found[1]))
        return math.prod(int(sizes[name]) for name in re.findall(r"'([^']+)'", found[2]))
    return devices


def _bytes(dtype: str, shape: str) -> int:
    return BYTES.get(dtype, 4) * math.prod(int(n) for n in shape.split(",") if n)
