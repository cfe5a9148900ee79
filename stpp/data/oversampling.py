"""Over-sampling: how often labelled images are repeated in an epoch."""


def copies(labeled: int, pseudo: int) -> int:
    """Return how often the labelled images D_l are repeated in an epoch.

    For students it is ceil(N / M), so that D_l is about as large as D_u (paper, 3.3). labeled: M, the size of D_l.
    pseudo: N, the number of pseudo-labelled images. Without these it is 2 below 200 labelled images, as in the authors'
    code, else 1.
    """
    if pseudo:
        return -(-pseudo // labeled)
    return 2 if labeled < 200 else 1


def copies_as_long(labeled: int, pseudo: int) -> int:
    """Return how often D_l alone is repeated in an epoch that is as long as a student's.

    If N is no multiple of M, the epoch is longer by less than D_l once. labeled, pseudo: as for `copies`.
    """
    return copies(labeled, pseudo) * (2 if pseudo else 1)
