"""Which prompts are used: by difficulty, and on which side of the held-out split."""

import pytest

from gopd_jax.data.select import hard_enough, hold_out
from gopd_jax.types import Prompt


def make_prompts(count: int) -> list[Prompt]:
    chats = [({"role": "user", "content": f"question {i}"},) for i in range(count)]
    return [Prompt(f"p{i}", chat, "math", "1") for i, chat in enumerate(chats)]


def test_difficulty():
    fields = [
        {"difficulty": 6},
        {"difficulty": 5.9},
        {"extra_info": {"difficulty": "7.5"}},
        {},
        {"difficulty": "easy"},
    ]
    chat = ({"role": "user", "content": "?"},)
    mixed = [Prompt(f"p{i}", chat, "", "", extra) for i, extra in enumerate(fields)]
    kept, dropped = hard_enough(mixed, 6)
    assert [p.prompt_id for p in kept] == ["p0", "p2"]
    assert dropped == (
        ("p1", "difficulty below 6"),
        ("p3", "no difficulty"),
        ("p4", "no difficulty"),
    )
    assert hard_enough(mixed, 0) == (mixed, ())
    message = 'min_difficulty=6: none of 2 prompts has a number in "difficulty"'
    with pytest.raises(ValueError, match=message):
        hard_enough(make_prompts(2), 6)
    with pytest.raises(ValueError, match="min_difficulty=8: none of 5 prompts is that difficult"):
        hard_enough(mixed, 8)


def test_a_held_out_question_is_on_one_side_and_added_rows_move_nothing():
    first = make_prompts(400)
    train, test = hold_out(first, 0.25)
    names = {p.prompt_id for p in test}
    assert 60 < len(test) < 140 and len(train) + len(test) == 400
    again = [Prompt(f"again{i}", p.messages, "math", "1", {}) for i, p in enumerate(first)]
    _, more = hold_out([*first, *again, *make_prompts(900)[400:]], 0.25)
    assert names <= {p.prompt_id for p in more}
    assert {p.prompt_id for p in more} & {p.prompt_id for p in first} == names
    contents = {p.messages[0]["content"] for p in test}
    assert {p.messages[0]["content"] for p in more if p.prompt_id.startswith("again")} == contents


def test_a_number_of_prompts_is_held_out():
    assert len(hold_out(make_prompts(400), 7)[1]) == 7
    with pytest.raises(ValueError, match="0 are left to train on"):
        hold_out(make_prompts(400), 400)
