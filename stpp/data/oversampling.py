"""How often labelled images are repeated in an epoch."""


def copies(labeled: int, pseudo: int) -> int:
    """How often D_l is repeated to come to about the size of D_u: ceil(N / M) for students (paper, 3.3).

    Without pseudo labels it is 2 below 200 labelled images, as in the authors' code, else 1.
    """
    if pseudo:
        return -(-pseudo // labeled)
    return 2 if labeled < 200 else 1
