"""Video -> subject folder: one named, resumable step a file (DESIGN: `instag.data_utils`)."""
