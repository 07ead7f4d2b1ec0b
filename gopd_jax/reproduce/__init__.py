"""The paper's experiments in the embedded world: arms -> runs over seeds -> scores -> tables, claims and pictures.

`arms.py` says what is trained, `work.py` trains and scores one arm, `__main__.py` spreads them over processes, `tables.py` and
`pictures.py` write what came of it.
"""
