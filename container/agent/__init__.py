"""The agent inside the container: letters in, turns of Claude Code, letters out."""
