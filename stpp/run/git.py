"""Calls of git that never fail."""

import subprocess


def git(*words: str) -> str:
    """Return the stripped output of a git command, or "" if the command fails or git is not installed."""
    try:
        done = subprocess.run(["git", *words], capture_output=True, text=True, errors="replace", check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
