"""Code that all other packages use: events, processes, logs, files, a run's folder, seeds. Imports none of them."""
