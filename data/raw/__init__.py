"""The user's files: layout, pairs, faults, images and labels."""
