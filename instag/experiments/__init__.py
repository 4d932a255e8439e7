"""Ablations: the paper's tables on a corpus, and made speakers whose truth is known (`scripts/ablations.sh`)."""
