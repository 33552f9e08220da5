"""The surroundings of a run: console, files, compilation, devices, processes, signals."""
