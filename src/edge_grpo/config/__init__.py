"""The settings of a run: every section, reading and checking them, and explaining mistakes in one line."""
