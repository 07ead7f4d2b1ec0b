"""A model folder on the Hugging Face hub.

The token is that of `hf auth login` or of HF_TOKEN; this module never reads it itself.
"""

import re

import huggingface_hub
from huggingface_hub import errors

# What the hub, the network and the lack of a token raise.
FAILURES = (OSError, ValueError, errors.HTTPError)
WEIGHTS = ["*.safetensors", "*.safetensors.index.json"]


def check_can_push(repo: str) -> None:
    """Checks, before any work, that a folder can be pushed to a repository.

    Args:
        repo: OWNER/NAME.

    Raises:
        ValueError: the name is not valid, nobody is logged in, the hub cannot be reached, or the
            account may not write there.
    """
    owner, _, _ = repo.partition("/")
    try:
        if repo.count("/") != 1:
            raise errors.HFValidationError("it has no owner" if "/" not in repo else "two slashes")
        huggingface_hub.utils.validate_repo_id(repo)
    except errors.HFValidationError as e:
        raise ValueError(
            f"--push-to-hub={repo}: expected OWNER/NAME of letters, digits, '-', '_' and '.' "
            f"({reason(e)})"
        ) from e
    try:
        account = huggingface_hub.HfApi().whoami()
    except FAILURES as e:
        raise ValueError(
            f"--push-to-hub={repo}: expected an account that the hub knows, by `hf auth login` or "
            f"HF_TOKEN ({reason(e)})"
        ) from e
    owners = [account["name"], *(org["name"] for org in account.get("orgs", []))]
    if owner not in owners:
        raise ValueError(
            f"--push-to-hub={repo}: the account may not write to {owner!r}; expected an owner "
            f"among {', '.join(owners)}"
        )
    token = account.get("auth", {}).get("accessToken", {})
    if token.get("role") == "read":
        raise ValueError(
            f"--push-to-hub={repo}: the token may only read; expected one with the role 'write'"
        )


def push(folder: str, repo: str, private: bool, message: str) -> str:
    """Uploads a model folder as one commit, and returns the address of the repository.

    Weights that the repository holds and the folder does not are deleted in the same commit.

    Args:
        folder: to upload.
        repo: OWNER/NAME; created if it does not exist.
        private: of a repository that is created; an existing one keeps its visibility.
        message: of the commit.

    Raises:
        ValueError: the upload failed; says how to try again.
    """
    api = huggingface_hub.HfApi()
    try:
        address = api.create_repo(repo, repo_type="model", private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            repo_type="model",
            commit_message=message,
            delete_patterns=WEIGHTS,
        )
    except FAILURES as e:
        raise ValueError(
            f"{folder} is complete, but was not pushed to {repo} ({reason(e)}); expected the hub "
            f"to accept it: `hf upload {repo} {folder}` tries again"
        ) from e
    return str(address)


def reason(error: Exception) -> str:
    """The message of an error in one line, without the addresses that the hub adds."""
    text = re.sub(r"\(Request ID: [^)]*\)", "", str(error))
    return " ".join(text.split()) or type(error).__name__
