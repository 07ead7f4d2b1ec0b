"""One folder of prepared data sets for all runs of a test process: building them takes seconds."""

import atexit
import shutil
import tempfile

DATASETS = tempfile.mkdtemp(prefix="gopd_jax_datasets_")
atexit.register(shutil.rmtree, DATASETS, ignore_errors=True)
