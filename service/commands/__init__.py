"""The commands behind `dare`, one file each; imported when they run."""
