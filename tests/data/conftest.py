import os
from pathlib import Path

from data_cases import ROOT, save_tokenizer
import pytest

from gopd_jax.data.datasets import DataSource, prepare


@pytest.fixture(scope="session")
def shared_data() -> Path:
    default = ROOT.parent / "shared" / "data"
    folder = Path(os.environ.get("GOPD_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(
            "needs the shared data folder: ../shared/data beside the repository, or "
            "GOPD_SHARED_DATA"
        )
    return folder


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory) -> Path:
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def deepmath(shared_data, tmp_path_factory) -> DataSource:
    folder = tmp_path_factory.mktemp("deepmath")
    return prepare(shared_data / "deepmath_14k.parquet", folder, domain="math")
