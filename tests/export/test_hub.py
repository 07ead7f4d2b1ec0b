"""Pushing to the hub, against a stand-in of its client."""

import huggingface_hub
from huggingface_hub import errors
import pytest

from gopd_jax.export.hub import check_can_push, push

ACCOUNT = {"name": "jo", "orgs": [{"name": "acme"}], "auth": {"accessToken": {"role": "write"}}}


class StandIn:
    """In place of `HfApi`; `account` and `failure` may be exceptions."""

    account = ACCOUNT
    failure = None
    calls = []

    def whoami(self, token=None, *, cache=False):
        if isinstance(self.account, Exception):
            raise self.account
        return self.account

    def create_repo(self, repo_id, *, private=None, repo_type=None, exist_ok=False):
        self.calls.append(("create_repo", repo_id, private, exist_ok))
        return f"https://huggingface.co/{repo_id}"

    def upload_folder(
        self, *, repo_id, folder_path, repo_type=None, commit_message=None, delete_patterns=None
    ):
        if self.failure:
            raise self.failure
        self.calls.append(("upload_folder", repo_id, folder_path, commit_message))


@pytest.fixture
def hub(monkeypatch):
    stand_in = type("HfApi", (StandIn,), {"calls": []})
    monkeypatch.setattr(huggingface_hub, "HfApi", stand_in)
    return stand_in


def test_a_folder_is_pushed_as_one_commit(hub):
    check_can_push("jo/student")
    check_can_push("acme/student")
    assert hub.calls == []  # a check creates nothing
    assert push("out", "jo/student", True, "Step 3") == "https://huggingface.co/jo/student"
    assert hub.calls == [
        ("create_repo", "jo/student", True, True),
        ("upload_folder", "jo/student", "out", "Step 3"),
    ]


@pytest.mark.parametrize("name", ["student", "a/b/c", "jo/", "jo/a b", "jo/a--b", "/x", ""])
def test_a_wrong_name(hub, name):
    with pytest.raises(ValueError, match=f"--push-to-hub={name}: expected OWNER/NAME"):
        check_can_push(name)


@pytest.mark.parametrize(
    "account, words",
    [
        (errors.LocalTokenNotFoundError("no token found"), "hf auth login.*no token found"),
        (errors.HTTPError("Name or service\nnot known"), "HF_TOKEN .Name or service not known"),
        (ACCOUNT | {"name": "mo"}, "may not write to 'jo'; expected an owner among mo, acme"),
        (ACCOUNT | {"auth": {"accessToken": {"role": "read"}}}, "the token may only read"),
    ],
)
def test_an_account_that_cannot_push(hub, account, words):
    hub.account = account
    with pytest.raises(ValueError, match=f"--push-to-hub=jo/student: .*{words}"):
        check_can_push("jo/student")


def test_a_failed_upload_says_how_to_try_again(hub):
    hub.failure = errors.HTTPError("413 too large (Request ID: Root=1-6)")
    with pytest.raises(ValueError, match="out is complete.*413 too large.*hf upload jo/x out"):
        push("out", "jo/x", False, "Step 3")
