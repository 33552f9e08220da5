"""From the user's files to prepared splits."""
