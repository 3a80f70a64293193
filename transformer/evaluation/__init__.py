"""How good the predictions are: error metrics against the translation baseline, figures, and the written report."""
