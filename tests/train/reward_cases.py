"""A reward function of a user, for the tests of runs."""


def graded(record, answer):
    """Between 0 and 1, with a further number; reads the row."""
    assert record["messages"][-1]["role"] == "user" and record["ground_truth"]
    return {"reward": min(1.0, len(answer) / 20), "characters": len(answer)}
