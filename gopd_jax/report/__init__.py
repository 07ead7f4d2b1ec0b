"""The report: one HTML page about one or several runs, made from the folders that training writes.

Run folders -> `read` (what is there, and what could not be read) -> `findings`, with `checks`,
`domain_checks` and `progress_checks` (what was looked at, and what deserves attention), `setup`
(what was run), `charts` and `numbers` (which curves there are, and their values), `samples` ->
`page` (one file: the data as JSON, with the style and the scripts in web/, which draw it in the
browser).
"""
