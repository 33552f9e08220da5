"""`--mode=check`: whether the data on disk will do."""
