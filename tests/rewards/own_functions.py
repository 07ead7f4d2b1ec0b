"""Reward functions of a user, right and wrong, for `test_own.py`."""

import os
import signal
import sys
import time

CALLS = []
not_a_function = 3


def half(record, answer):
    return 0.5


def named(record, answer):
    return {"reward": len(answer) / 10, "words": len(answer.split()), "level": record["level"]}


def critic(record, answer):
    words = len(answer.split())
    return {"reward": 0, "words": words, "feedback": f"too few words: {answer!r}"}


def no_text(record, answer):
    return {"reward": 0.5, "feedback": 3}


def echo(record, answer):
    """A reward that says whether the row came through whole."""
    expected = {
        "prompt_id": "p/1",
        "domain": "chat",
        "messages": [{"role": "user", "content": "?"}],
        "ground_truth": "",
        "level": 3,
        "tags": ["a", {"b": None}],
    }
    return record == expected and answer == "héllo"


def raises(record, answer):
    return record["no such field"]


def out_of_range(record, answer):
    return 1.5


def not_finite(record, answer):
    return {"reward": 0.5, "loss": float("nan")}


def text(record, answer):
    return "0.5"


def nothing(record, answer):
    return None


def unnamed(record, answer):
    return {"score": 0.5}


def taken(record, answer):
    return {"reward": 0.5, "low": 0.1}


def exits(record, answer):
    sys.exit(0)


def dies(record, answer):
    os.kill(os.getpid(), signal.SIGKILL)


def slow(record, answer):
    if answer == "slow":
        time.sleep(60)
    return 1.0


def never_interrupted(record, answer):
    while answer == "slow":
        try:
            time.sleep(60)
        except BaseException:
            continue
    return 1.0


def hungry(record, answer):
    if answer == "hungry":
        return float(len(bytearray(1 << 32)))
    return 1.0


def prints(record, answer):
    print("x" * 100_000)
    sys.stderr.write("y" * 100_000)
    return 1.0


def counts(record, answer):
    CALLS.append(answer)
    return len(CALLS) / 10
