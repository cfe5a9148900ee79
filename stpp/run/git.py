"""What git says of the project."""

import subprocess


def git(*words: str) -> str:
    """The output of a git command, stripped; empty where it fails or where there is no git."""
    try:
        done = subprocess.run(["git", *words], capture_output=True, text=True, errors="replace", check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
