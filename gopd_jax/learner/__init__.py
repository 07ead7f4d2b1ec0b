"""From rollouts to new parameters: packing, scoring by frozen models, the train step, optimizer."""
