"""What any run needs around the method: console, files, compilation, devices, processes, signals."""
