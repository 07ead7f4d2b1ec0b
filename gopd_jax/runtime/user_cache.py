"""The folder in which results are kept for later runs of the same user.

GOPD_CACHE moves it, and GOPD_CACHE=off switches it off. Otherwise it is gopd_jax in XDG_CACHE_HOME
or, without that, in ~/.cache. It may be deleted at any time.
"""

import os

from etils import epath

VARIABLE, OFF = "GOPD_CACHE", "off"


def cache_folder(name: str) -> epath.Path | None:
    """The folder of one kind of results, which may not exist yet; None where nothing is kept.

    Args:
        name: of the kind, such as "evaluations".
    """
    root = os.environ.get(VARIABLE, "")
    if root == OFF:
        return None
    if not root:
        # As its specification says, XDG_CACHE_HOME counts only if it is absolute.
        base = os.environ.get("XDG_CACHE_HOME", "")
        base = base if os.path.isabs(base) else os.path.expanduser("~/.cache")
        if not os.path.isabs(base):  # no home
            return None
        root = os.path.join(base, "gopd_jax")
    return epath.Path(root) / name
