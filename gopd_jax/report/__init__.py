"""The report of one or several runs: one HTML page to look at, from the folders that training writes.

run folders -> `read.py` (what is there, and what could not be read) -> `findings.py` (what deserves attention) and `numbers.py`
(curves, scores, samples, cut to size) -> `page.py` (one file: data as JSON, page.css, page.js, which draws it in the browser).
"""
