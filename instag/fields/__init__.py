"""The boxes of the figure: structure, motion, personalised fields, aligner, hook."""
