"""Weight files: those of other projects, and exports of trained models."""
