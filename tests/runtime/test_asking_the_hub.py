"""Asking the hub: one line says so, and the client's warnings are not shown."""

import logging

import huggingface_hub
import pytest

from gopd_jax.data.tokenizer import ChatTokenizer
from gopd_jax.models.config import load_config
from gopd_jax.runtime.hub import ask_for

NOTE = "asking the Hugging Face hub for 'someone/something', which is not a folder here\n"


@pytest.fixture(autouse=True)
def unreachable(monkeypatch):
    """The client gives up at once, instead of after several attempts."""
    import transformers.utils.hub

    def download(*args, **kwargs):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no network")

    before = huggingface_hub.utils.logging.get_verbosity()
    huggingface_hub.utils.logging.set_verbosity_warning()
    monkeypatch.setattr(transformers.utils.hub, "hf_hub_download", download)
    ask_for.cache_clear()
    yield
    huggingface_hub.utils.logging.set_verbosity(before)


@pytest.mark.parametrize("load", [load_config, ChatTokenizer.load])
def test_one_line_says_what_is_asked_for(load, capsys):
    for _ in range(2):
        with pytest.raises(ValueError, match="someone/something"):
            load("someone/something")
    assert capsys.readouterr().err == NOTE
    # The client warns of each attempt.
    assert not logging.getLogger("huggingface_hub.utils._http").isEnabledFor(logging.WARNING)
