"""What is said when the Hugging Face hub is asked for something."""

import functools

import huggingface_hub

from gopd_jax.runtime.progress import say


@functools.cache
def ask_for(name: str) -> None:
    """Says once that the hub is asked for `name`, unless HF_HUB_OFFLINE forbids it.

    The client is silent from then on: without a network it prints a warning for each attempt, and
    its error, which ends the command, says the same.
    """
    huggingface_hub.utils.logging.set_verbosity_error()
    if not huggingface_hub.constants.HF_HUB_OFFLINE:
        say(f"asking the Hugging Face hub for {name!r}, which is not a folder here")
