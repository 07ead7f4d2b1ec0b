"""From rollouts to new parameters: packing, chunked log-probs, scoring by frozen models, the train step. Knows no files."""
