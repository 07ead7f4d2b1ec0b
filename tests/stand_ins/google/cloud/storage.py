"""Stands in for google-cloud-storage, which Orbax asks whether a bucket has real folders."""


class Client:
    def get_bucket(self, name: str) -> object:
        return object()  # without hierarchical_namespace_enabled
