"""From files of people to a manifest and a split."""
